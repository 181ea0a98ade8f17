package agent

import (
	"context"
	"errors"
	"fmt"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/datapath"
)

// Backend is one way to enforce.
type Backend struct {
	// Firewall is the word by which an installation asks for it.
	Firewall v1alpha1.Firewall
	// Open returns the datapath with its name and mode, as in "iptables (nft)". It
	// changes nothing in the kernel. An error that wraps datapath.ErrUnsupported says
	// that the node lacks what it needs.
	Open func() (d datapath.Datapath, name string, err error)
}

// opened makes sure that there is a datapath, and that it is the one that is wished
// for if the node can have that. A node that lacks what it needs is asked again: it
// may be given it while the agent runs.
func (k *kernel) opened() error {
	if k.datapath != nil && k.chosenFor == k.wish {
		return nil
	}
	var failed []error
	for i, b := range k.backends {
		if k.wish != v1alpha1.FirewallAuto && k.wish != b.Firewall {
			continue
		}
		if k.datapath != nil && k.inUse == b.Firewall {
			k.chosenFor, k.why = k.wish, k.whyThis(failed)
			return nil
		}
		d, name, err := b.Open()
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", b.Firewall, err))
			continue
		}
		k.changeTo(i, d, name)
		k.chosenFor, k.why = k.wish, k.whyThis(failed)
		return nil
	}
	err := fmt.Errorf("open the datapath: %w", errors.Join(failed...))
	if k.datapath == nil {
		return err
	}
	// What works goes on working.
	k.chosenFor, k.why = k.wish, fmt.Sprintf("spec.firewall of the Portreeve object asks for %s, which this node can't have (%v), so it goes on with %s", k.wish, errors.Join(failed...), k.name)
	k.log.Error("the firewall that is asked for can't be had", "firewall", k.wish, "using", k.name, "error", err)
	return nil
}

// whyThis says why it is this backend and no other.
func (k *kernel) whyThis(failed []error) string {
	switch {
	case k.wish != v1alpha1.FirewallAuto:
		return fmt.Sprintf("spec.firewall of the Portreeve object asks for %s", k.wish)
	case len(failed) > 0:
		return fmt.Sprintf("the first of %s that this node can have: %v", k.order(), errors.Join(failed...))
	}
	return fmt.Sprintf("the first of %s that this node can have", k.order())
}

func (k *kernel) order() string {
	text := ""
	for i, b := range k.backends {
		if i > 0 {
			text += ", "
		}
		text += string(b.Firewall)
	}
	return text
}

// changeTo takes the datapath in the place of the one in use, whose rules stay until
// the new ones are in force.
func (k *kernel) changeTo(backend int, d datapath.Datapath, name string) {
	if k.datapath != nil {
		k.log.Info("changing the datapath", "from", k.name, "to", name)
		k.former = append(k.former, k.datapath)
	}
	k.datapath, k.name, k.inUse = d, name, k.backends[backend].Firewall
	k.sure, k.due, k.settled = false, true, false
}

// settle removes what other datapaths hold of ours: of the one that was in use until
// now, and of earlier agents. The new rules are in force by then, so there is no gap;
// until then a packet passes only where both let it.
func (k *kernel) settle(ctx context.Context) {
	if k.settled {
		return
	}
	var failed []error
	for _, d := range k.former {
		failed = append(failed, d.Cleanup(ctx))
		closeDatapath(d)
	}
	for _, b := range k.backends {
		if b.Firewall == k.inUse {
			continue
		}
		d, _, err := b.Open()
		if err != nil {
			continue // what the node can't have has left nothing
		}
		failed = append(failed, d.Cleanup(ctx))
		closeDatapath(d)
	}
	k.former = nil
	if k.remains = errors.Join(failed...); k.remains != nil {
		k.log.Warn("rules of another datapath remain; trying again", "error", k.remains)
		return
	}
	k.settled = true
}

func closeDatapath(d datapath.Datapath) {
	if c, ok := d.(interface{ Close() }); ok {
		c.Close()
	}
}
