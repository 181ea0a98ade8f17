package cloud_test

import (
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/portreeve/portreeve/cloud/cloudtest"
)

var (
	chaosSeed  = flag.Uint64("chaos.seed", 0, "play this one life of TestChaos again")
	chaosSteps = flag.Int("chaos.steps", 0, "how long each life of TestChaos is")
)

// TestChaos is 10,000 steps in memory: what cloudtest.Chaos says. A life that fails is
// played again with -chaos.seed and the same -chaos.steps.
func TestChaos(t *testing.T) {
	lives, steps := uint64(20), 500
	if os.Getenv("PORTREEVE_SCALE") == "soak" {
		lives, steps = 100, 2000
	}
	if *chaosSteps > 0 {
		steps = *chaosSteps
	}
	if *chaosSeed > 0 {
		chaosLife(t, *chaosSeed, steps)
		return
	}
	for seed := uint64(1); seed <= lives; seed++ {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			t.Parallel()
			chaosLife(t, seed, steps)
		})
	}
}

// TestECSChaos is the same in an account of Alibaba Cloud, whose rules have priorities,
// drop, and are counted over all groups.
func TestECSChaos(t *testing.T) {
	lives, steps := uint64(20), 500
	if os.Getenv("PORTREEVE_SCALE") == "soak" {
		lives, steps = 100, 2000
	}
	if *chaosSteps > 0 {
		steps = *chaosSteps
	}
	first := uint64(1)
	if *chaosSeed > 0 {
		first, lives = *chaosSeed, *chaosSeed
	}
	for seed := first; seed <= lives; seed++ {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			t.Parallel()
			now := time.Unix(1_700_000_000, 0)
			account := cloudtest.NewECS(cloudtest.ECSOptions{
				RulesPerGroup: 20, RulesTogether: 50, Priority: 50, CallsPerMinute: 1_000_000, Older: seed%2 == 0,
				Clock: func() time.Time { return now },
			})
			c := account.Chaos(account.At)
			c.Pass = func(d time.Duration) { now = now.Add(d) }
			c.Random, c.Steps = seed, steps
			c.Run(t)
		})
	}
}

func chaosLife(t *testing.T, seed uint64, steps int) {
	now := time.Unix(1_700_000_000, 0)
	account := cloudtest.NewEC2(cloudtest.Options{RulesPerGroup: 12, Clock: func() time.Time { return now }})
	c := account.Chaos(account.Provider(), account.Provider())
	c.Pass = func(d time.Duration) { now = now.Add(d) }
	c.Random, c.Steps = seed, steps
	c.Run(t)
}
