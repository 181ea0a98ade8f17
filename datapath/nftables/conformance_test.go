package nftables_test

import (
	"testing"

	"github.com/portreeve/portreeve/datapath"
	"github.com/portreeve/portreeve/datapath/datapathtest"
	"github.com/portreeve/portreeve/datapath/nftables"
)

func TestConformance(t *testing.T) {
	datapathtest.Run(t, datapathtest.Subject{Open: open(nftables.New)})
}

// Without an owner everybody may change the table, as on kernels before 6.9.
func TestConformanceShared(t *testing.T) {
	datapathtest.Run(t, datapathtest.Subject{Open: open(nftables.NewShared), Damage: damage})
}

func open(make func() (*nftables.Datapath, error)) datapathtest.Open {
	return func(t *testing.T) datapath.Datapath {
		d, err := make()
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
}

func nft(words ...string) []string { return append([]string{"nft"}, words...) }

var damage = map[string][][]string{
	"the table is deleted":                 {nft("delete", "table", "inet", "portreeve")},
	"the hook is flushed":                  {nft("flush", "chain", "inet", "portreeve", "prerouting")},
	"the judge is flushed":                 {nft("flush", "chain", "inet", "portreeve", "judge")},
	"the protocols are flushed":            {nft("flush", "set", "inet", "portreeve", "protocols")},
	"the table is put to sleep":            {nft("add", "table", "inet", "portreeve", "{ flags dormant; }")},
	"a set that no rule names is deleted":  {nft("delete", "set", "inet", "portreeve", "virtual.ip")},
	"an accept is slipped in":              {nft("insert", "rule", "inet", "portreeve", "judge", "accept")},
	"the judged numbers are flushed":       {nft("flush", "set", "inet", "portreeve", "judged")},
	"the audited numbers are flushed":      {nft("flush", "set", "inet", "portreeve", "audited")},
	"the hook of local ports is deleted":   {nft("delete", "chain", "inet", "portreeve", "input")},
	"the hook of local ports is flushed":   {nft("flush", "chain", "inet", "portreeve", "input")},
	"a port is local no more":              {nft("flush", "set", "inet", "portreeve", "local")},
	"the ports are flushed":                {nft("flush", "map", "inet", "portreeve", "ports")},
	"a number is slipped in to be audited": {nft("add", "element", "inet", "portreeve", "audited", "{ 30050 }")},
	"a source is slipped into a class": {{"sh", "-c", "nft list sets table inet portreeve | grep -o 'class-[0-9a-f]*[.]ip ' | head -1 | " +
		"xargs -I{} nft add element inet portreeve {} '{ 10.10.0.0/16 }'"}},
}
