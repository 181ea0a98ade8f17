package ports

import (
	"slices"
	"strings"
)

// queues count waiting requests by the pools they wait for: few lists of pools
// serve many requests.
type queues struct {
	byPools map[string]*queue
	all     []*queue
}

type queue struct {
	pools  []string
	length int      // requests with just these pools
	ahead  int      // requests that wait for one of these pools
	meets  []*queue // those that share a pool with this one, itself among them
}

// join counts those that wait for one of the pools, and adds one to them.
func (q *queues) join(pools []string) (ahead int) {
	key := strings.Join(pools, ",")
	own := q.byPools[key]
	if own == nil {
		own = q.open(key, pools)
	}
	ahead = own.ahead
	own.length++
	for _, other := range own.meets {
		other.ahead++
	}
	return ahead
}

func (q *queues) open(key string, pools []string) *queue {
	if q.byPools == nil {
		q.byPools = map[string]*queue{}
	}
	own := &queue{pools: pools}
	q.byPools[key] = own
	q.all = append(q.all, own)
	for _, other := range q.all {
		if !slices.ContainsFunc(other.pools, func(p string) bool { return slices.Contains(pools, p) }) {
			continue
		}
		own.ahead += other.length
		own.meets = append(own.meets, other)
		if other != own {
			other.meets = append(other.meets, own)
		}
	}
	return own
}
