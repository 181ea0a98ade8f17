package arrival

import (
	"math"
	"testing"
)

// unlikely is how probable it may be that one count among many is found fault with
// although all is well. A run compares less than a thousand counts, and a soak less than
// ten thousand: with either the probability of a false alarm is below 1e-6.
const unlikely = 1e-10

// span returns the fewest and the most hits that n tries have, each with probability p:
// less or more come with a probability of at most unlikely.
func span(n int, p float64) (fewest, most int) {
	below, above := 0.0, 0.0
	for fewest = 0; fewest < n; fewest++ {
		if below += chance(n, fewest, p); below > unlikely/2 {
			break
		}
	}
	for most = n; most > 0; most-- {
		if above += chance(n, most, p); above > unlikely/2 {
			break
		}
	}
	return fewest, most
}

// chance is the probability of so many hits.
func chance(n, hits int, p float64) float64 {
	switch {
	case p >= 1 && hits == n, p <= 0 && hits == 0:
		return 1
	case p >= 1, p <= 0:
		return 0
	}
	all, _ := math.Lgamma(float64(n + 1))
	in, _ := math.Lgamma(float64(hits + 1))
	out, _ := math.Lgamma(float64(n - hits + 1))
	return math.Exp(all - in - out + float64(hits)*math.Log(p) + float64(n-hits)*math.Log1p(-p))
}

func TestTheOddsAreRight(t *testing.T) {
	for _, c := range []struct {
		n            int
		p            float64
		fewest, most int
	}{
		{40, 1, 40, 40}, {40, 0, 0, 0},
		{40, 0.5, 2, 38},        // 41 of 2^40 ways lead to 39 or 40 hits, which is 3.7e-11
		{askers, 1. / 3, 0, 33}, // to keep a pod by chance is no reason to believe in an affinity
		{tries, 1. / 3, 10, 75},
	} {
		fewest, most := span(c.n, c.p)
		if fewest != c.fewest || most != c.most {
			t.Errorf("%d tries of probability %.2f: %d to %d, want %d to %d", c.n, c.p, fewest, most, c.fewest, c.most)
		}
		sum := 0.0
		for hits := fewest; hits <= most; hits++ {
			sum += chance(c.n, hits, c.p)
		}
		if 1-sum > unlikely {
			t.Errorf("%d tries of probability %.2f are within %d to %d with %g", c.n, c.p, fewest, most, sum)
		}
	}
}
