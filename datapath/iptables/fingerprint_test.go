package iptables

import (
	"testing"

	"github.com/portreeve/portreeve/datapath/datapathtest"
)

// What others do to our tables shows in the fingerprint; what they do elsewhere, and
// time that passes, does not.
func TestTheFingerprintShowsWhatOthersDo(t *testing.T) {
	inEachMode(t, func(t *testing.T, mode Mode) {
		w, d := newNode(t, mode)
		want := datapathtest.Set(datapathtest.Pool, "tcp/30050 alice persecond=5 connections=2 log=denied").WithDenied(datapathtest.Prefixes("mallory"))
		fingerprint := func() (n uint64) {
			t.Helper()
			err := w.Node.Do(func() (err error) {
				n, err = d.Fingerprint()
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		fingerprint() // also where nothing is yet
		w.Sync(want)
		iptables := "iptables-" + string(mode)
		other := "legacy"
		if mode == Legacy {
			other = "nft"
		}
		for sentence, argv := range map[string][]string{
			"somebody else's set":    {"ipset", "create", "THEIRS", "hash:ip"},
			"the other mode":         {"iptables-" + other, "-w", "10", "-t", "mangle", "-A", "PREROUTING", "-j", "ACCEPT"},
			"another nftables table": {"nft", "add", "table", "inet", "theirs"},
			"nothing":                {"true"},
		} {
			before := fingerprint()
			w.Node.Command(t, "", argv...)
			if fingerprint() != before {
				t.Errorf("%s changes it", sentence)
			}
		}
		for sentence, argv := range map[string][]string{
			"a set is flushed":            {"ipset", "flush", string(denied4)},
			"a source is slipped in":      {"ipset", "add", string(admit6), "2001:db8::/32,udp:30051"},
			"the hook is flushed":         {iptables, "-w", "10", "-t", "mangle", "-F", "PREROUTING"},
			"a rule comes ahead":          {iptables, "-w", "10", "-t", "mangle", "-I", "PREROUTING", "1", "-j", "ACCEPT"},
			"a rule of ours goes":         {iptables, "-w", "10", "-t", "mangle", "-D", chainMain, "9"},
			"a rule of IPv6 goes":         {"ip6" + iptables[2:], "-w", "10", "-t", "mangle", "-D", chainShut, "1"},
			"connections are not counted": {iptables, "-w", "10", "-t", "mangle", "-F", chainCount},
		} {
			w.Sync(want)
			before := fingerprint()
			w.Node.Command(t, "", argv...)
			if fingerprint() == before {
				t.Errorf("%s, and it is as before", sentence)
			}
			if sentence == "a rule comes ahead" {
				w.Node.Command(t, "", iptables, "-w", "10", "-t", "mangle", "-D", "PREROUTING", "-j", "ACCEPT")
			}
		}
	})
}
