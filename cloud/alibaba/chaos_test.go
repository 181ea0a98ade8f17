package alibaba_test

import (
	"flag"
	"fmt"
	"os"
	"sync"
	"testing"

	"github.com/portreeve/portreeve/cloud"
	"github.com/portreeve/portreeve/cloud/alibaba"
	"github.com/portreeve/portreeve/cloud/cloudtest"
)

var (
	chaosSeed  = flag.Uint64("chaos.seed", 0, "play this one life of TestFrontChaos again")
	chaosSteps = flag.Int("chaos.steps", 50, "how long each life is")
)

// TestFrontChaos is cloudtest.Chaos, 500 steps, through the SDK and HTTP, half of the
// lives with the older generation of the API. They wait for retries most of the time, so
// they do it together.
func TestFrontChaos(t *testing.T) {
	offline(t)
	first, lives := uint64(1), uint64(10)
	if os.Getenv("PORTREEVE_SCALE") == "soak" {
		lives *= 20
	}
	if *chaosSeed > 0 {
		first, lives = *chaosSeed, *chaosSeed
	}
	var all sync.WaitGroup
	for seed := first; seed <= lives; seed++ {
		all.Go(func() { t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) { chaosLife(t, seed) }) })
	}
	all.Wait()
}

func chaosLife(t *testing.T, seed uint64) {
	account, endpoint := serve(t, cloudtest.ECSOptions{
		RulesPerGroup: 20, RulesTogether: 50, Priority: 50, PageSize: 10, CallsPerMinute: 1_000_000, Older: seed%2 == 0,
	})
	c := account.Chaos(func(priority int) cloud.Provider {
		return open(t, alibaba.Options{Endpoint: endpoint, Priority: priority})
	})
	c.Random, c.Steps = seed, *chaosSteps
	c.Run(t)
}
