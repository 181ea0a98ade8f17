package churn

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/portreeve/portreeve/lab"
)

// fate is what happens to one node: one thing at a time, so that it is known what a
// damage met.
type fate struct {
	*life
	node   *lab.Node
	random *rand.Rand
}

// live kills and strikes until ctx ends, and leaves an agent that runs.
func (f *fate) live(ctx context.Context) {
	for pause(ctx, time.Duration(300+f.random.IntN(1500))*time.Millisecond) {
		var err error
		if f.random.IntN(5) < 2 {
			err = f.kill()
		} else {
			err = f.strike()
		}
		if err != nil {
			f.judge.breach(time.Now(), f.node.Name, "%s: %v", f.node.Name, err)
			return
		}
	}
}

// kill ends the agent as a crash would, at whatever it does, and starts the next.
func (f *fate) kill() error {
	f.judge.note("kills", "agent of %s", f.node.Name)
	town.Agent(f.node).Kill()
	if f.random.IntN(2) == 0 {
		pause(f.ctx, time.Duration(f.random.IntN(1500))*time.Millisecond)
	}
	if err := town.RestartAgent(f.ctx, f.node); err != nil {
		return err
	}
	err := await(f.ctx, settling, f.inCharge)
	f.judge.note("restarts", "agent of %s", f.node.Name)
	return err
}

// inCharge asks the agent whether it has taken its rules to the kernel.
func (f *fate) inCharge() error {
	c := &http.Client{Transport: &http.Transport{DialContext: f.node.DialContext, DisableKeepAlives: true}, Timeout: 5 * time.Second}
	response, err := c.Get("http://127.0.0.1:9465/readyz")
	if err != nil {
		return err
	}
	if err := response.Body.Close(); err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("the agent of %s is not ready: %s", f.node.Name, response.Status)
	}
	return nil
}

// blow is something that a foreign hand does.
type blow struct {
	script string
	// harmless: it does not name our table, so an owner need not refuse it.
	harmless bool
}

// kube-proxy's tables are of the families ip and ip6, so they outlive the second.
var blowsNFTables = []blow{
	{"nft delete table inet portreeve", false},
	{"nft flush ruleset inet", true},
	{"nft flush chain inet portreeve judge", false},
	{"nft flush chain inet portreeve prerouting", false},
	{"nft flush set inet portreeve judged", false},
	{"nft flush map inet portreeve ports", false},
	{"nft insert rule inet portreeve judge accept", false},
}

// IPT is the tool of the mode in use, for both families.
var blowsIPTables = []blow{
	{script: "IPT -t mangle -F"},
	{script: "IPT -t mangle -F PREROUTING"},
	{script: "IPT -t mangle -I PORTREEVE 1 -j RETURN"},
	{script: "ipset flush PORTREEVE-JUDGED"},
	{script: "ipset flush PORTREEVE-ADMIT4"},
	{script: "ipset flush"},
	{script: "IPT -t mangle -F; ipset flush"},
}

// strike damages the rules, and returns when packets meet the right ones again.
func (f *fate) strike() error {
	b := f.blows[f.random.IntN(len(f.blows))]
	script := b.script
	if before, after, ok := strings.Cut(script, "IPT"); ok {
		tool := "iptables-" + f.mode
		script = before + tool + " -w 10" + after + " ; " + before + "ip6" + tool[2:] + " -w 10" + after
	}
	done := func() {}
	if !f.owned {
		done = f.judge.damaged(f.node.Name, script)
	}
	f.judge.note("flushes", "%s: %s", f.node.Name, b.script)
	out, err := f.node.Output(f.ctx, "sh", "-c", script)
	done()
	switch {
	case f.owned && !b.harmless && err == nil:
		return fmt.Errorf("%s was not refused", script)
	case (!f.owned || b.harmless) && err != nil:
		return fmt.Errorf("%s: %w: %s", script, err, out)
	}
	err = await(f.ctx, settling, f.right)
	f.judge.note("repairs", "%s", f.node.Name)
	return err
}

// right asks a few times who comes through to the port that nobody edits.
func (f *fate) right() error {
	if f.owned {
		return nil // the judge needs no help
	}
	for range 3 {
		for _, six := range families() {
			for _, group := range []int{never, always} {
				timeout := 60 * time.Millisecond
				if group == always {
					timeout = time.Second
				}
				a := f.ask(f.ctx, ask{"new", f.node, "udp", f.anchor.udp, group, six, 3, timeout, false})
				if (a.Outcome == lab.Answered) != (group == always) {
					return fmt.Errorf("%s, group %d: %s", f.node.Name, group, a)
				}
			}
		}
	}
	return nil
}

// The counters of a node: packets to the numbers before they are judged, and those of
// clients that are never named, once they passed.
const counters = `
table FAMILY churn {
	counter came { }
	counter denied { }
	counter passed { }
	chain before {
		type filter hook prerouting priority -160;
		meta l4proto { tcp, udp } th dport NUMBERS counter name came
		FAMILY saddr NETWORK meta l4proto { tcp, udp } th dport NUMBERS counter name denied
	}
	chain after {
		type filter hook prerouting priority -149;
		FAMILY saddr NETWORK meta l4proto { tcp, udp } th dport NUMBERS counter name passed
	}
}
`

// watch begins to count on every node, from zero.
func (l *life) watch() error {
	for _, node := range town.Nodes() {
		for _, six := range families() {
			family := map[bool]string{false: "ip", true: "ip6"}[six]
			rules := strings.NewReplacer("FAMILY", family, "NETWORK", network(never, six).String(), "NUMBERS", l.numbers).Replace(counters)
			script := fmt.Sprintf("table %s churn\ndelete table %[1]s churn\n%s", family, rules)
			if out, err := node.Output(l.ctx, "sh", "-c", "nft -f - <<'EOF'\n"+script+"\nEOF"); err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
		}
	}
	return nil
}

var counted = regexp.MustCompile(`counter (\w+) \{\s+packets (\d+)`)

// watched sums the counters up.
func (l *life) watched() (map[string]int, error) {
	sum := map[string]int{}
	for _, node := range town.Nodes() {
		for _, six := range families() {
			out, err := node.Output(l.ctx, "nft", "list", "counters", "table", map[bool]string{false: "ip", true: "ip6"}[six], "churn")
			if err != nil {
				return nil, err
			}
			for _, m := range counted.FindAllStringSubmatch(out, -1) {
				n, err := strconv.Atoi(m[2])
				if err != nil {
					return nil, err
				}
				sum[m[1]] += n
			}
		}
	}
	return sum, nil
}
