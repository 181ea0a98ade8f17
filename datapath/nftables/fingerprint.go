package nftables

import "github.com/portreeve/portreeve/datapath"

var _ datapath.Fingerprinter = (*Datapath)(nil)

// Fingerprint implements datapath.Fingerprinter: nothing happens to a table that is
// ours alone. One that is not may have changed when anything has, kube-proxy's tables
// among it; reading it all costs a few milliseconds then.
func (d *Datapath) Fingerprint() (uint64, error) {
	if d.owning {
		return 0, nil
	}
	if err := d.open(); err != nil {
		return 0, err
	}
	generation, err := d.socket.generation()
	if err != nil {
		d.doubt()
	}
	return uint64(generation), err
}
