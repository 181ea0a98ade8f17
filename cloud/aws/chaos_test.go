package aws_test

import (
	"flag"
	"fmt"
	"net/http/httptest"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2"

	sdk "github.com/aws/aws-sdk-go-v2/aws"

	"github.com/portreeve/portreeve/cloud"
	"github.com/portreeve/portreeve/cloud/aws"
	"github.com/portreeve/portreeve/cloud/cloudtest"
)

var (
	chaosSeed  = flag.Uint64("chaos.seed", 0, "play this one life of TestFrontChaos or TestMotoChaos again")
	chaosSteps = flag.Int("chaos.steps", 50, "how long each life is")
)

// lives runs that many lives, or the one that somebody asks for. They wait for the SDK's
// retries most of the time, so they do it together.
func lives(t *testing.T, n uint64, live func(t *testing.T, seed uint64)) {
	first := uint64(1)
	if os.Getenv("PORTREEVE_SCALE") == "soak" {
		n *= 20
	}
	if *chaosSeed > 0 {
		first, n = *chaosSeed, *chaosSeed
	}
	var all sync.WaitGroup
	for seed := first; seed <= n; seed++ {
		all.Go(func() { t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) { live(t, seed) }) })
	}
	all.Wait()
}

// TestFrontChaos is cloudtest.Chaos, 500 steps, through the SDK and HTTP. Calls wait for
// their turn on a clock that nobody waits for.
func TestFrontChaos(t *testing.T) {
	offline(t, "test", "test")
	lives(t, 10, func(t *testing.T, seed uint64) {
		clock := &hands{now: time.Now()}
		account := cloudtest.NewEC2(cloudtest.Options{RulesPerGroup: 12, PageSize: 7, Clock: clock.Now})
		server := httptest.NewServer(account)
		t.Cleanup(server.Close)
		c := account.Chaos(chaosView(t, server.URL, cloud.NewPaces(clock)), chaosView(t, server.URL, cloud.NewPaces(clock)))
		c.Random, c.Steps = seed, *chaosSteps
		c.Run(t)
	})
}

func chaosView(t *testing.T, endpoint string, paces *cloud.Paces) cloud.Provider {
	p, err := aws.New(t.Context(), aws.Options{Region: "eu-central-1", Endpoint: endpoint, Paces: paces})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestMotoChaos is the same, 100 steps, with moto, which fails on the way there and back.
func TestMotoChaos(t *testing.T) {
	offline(t, "test", "test")
	endpoint := startMoto(t)
	client := rawClient(t, endpoint)
	lives(t, 2, func(t *testing.T, seed uint64) {
		groups := int(seed) * 1000
		m := &moto{t: t, client: client, groups: &groups}
		clock := &hands{now: time.Now()}
		c := cloudtest.Chaos{
			Providers: [2]cloud.Provider{chaosView(t, endpoint, cloud.NewPaces(clock)), chaosView(t, endpoint, cloud.NewPaces(clock))},
			Rules:     m.rules, Seed: m.seed, Unseed: m.unseed, Pass: func(time.Duration) {},
			Random: seed, Steps: *chaosSteps,
		}
		for range 3 {
			c.Groups = append(c.Groups, m.newGroup())
		}
		for range 2 {
			c.Peers = append(c.Peers, m.newGroup())
		}
		c.Run(t)
	})
}

func (m *moto) unseed(group string, r cloud.Rule) {
	_, err := m.client.RevokeSecurityGroupIngress(m.t.Context(), &ec2.RevokeSecurityGroupIngressInput{
		GroupId: sdk.String(group), SecurityGroupRuleIds: []string{r.ID},
	})
	m.must(err)
}
