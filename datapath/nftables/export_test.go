package nftables

import "github.com/portreeve/portreeve/internal/rule"

// NewShared opens the datapath as on a kernel that can't keep a table for its
// owner.
func NewShared() (*Datapath, error) {
	d, err := New()
	if err == nil {
		d.lacks.owner = true
	}
	return d, err
}

// Misremember has the next Sync delete a port that is not there, which fails once.
func (d *Datapath) Misremember(p rule.Port) {
	have := *d.have
	for _, g := range d.have.Ports.All {
		have.Ports = have.Ports.With(p, g)
	}
	d.have = &have
}

// Socket is the one to which the table is bound.
func (d *Datapath) Socket() any { return d.socket }
