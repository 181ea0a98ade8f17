package iptables

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/portreeve/portreeve/datapath"
	"github.com/portreeve/portreeve/internal/rule"
)

// ensureSets makes the sets that are missing, forgets what it remembers when
// the kernel no longer holds as much, and keeps the addresses of kube-ipvs0.
func (d *Datapath) ensureSets(ctx context.Context, target *image) error {
	headers, err := d.sets.headers()
	if err != nil {
		return err
	}
	needed := slices.Clone(fixedSets)
	for p := range target.properties {
		sets := p.sets()
		needed = append(needed, sets[:]...)
	}
	for _, id := range needed {
		err := own(headers, id)
		if errors.Is(err, errAbsent) {
			headers[id] = header{typ: id.typ(), family: id.family()}
			err = d.sets.create(id)
		}
		if err != nil {
			return err
		}
	}
	if d.have != nil && !d.have.agrees(headers) {
		d.have = nil
	}
	if d.have == nil {
		if d.have, err = d.sets.image(headers); err != nil {
			return err
		}
	} else if err := d.sets.refresh(d.have); err != nil {
		return err
	}
	return d.exempt(ctx)
}

var errAbsent = fmt.Errorf("there is no such set: %w", datapath.ErrDamaged)

// own makes sure that one of our sets is there, and what we would have made.
func own(headers map[setID]header, id setID) error {
	switch found, ok := headers[id]; {
	case !ok:
		return fmt.Errorf("set %s: %w", id, errAbsent)
	case found.typ != id.typ() || found.family != id.family():
		return fmt.Errorf("set %s is of type %s, not %s: somebody else made it; destroy it: %w",
			id, found.typ, id.typ(), datapath.ErrDamaged)
	}
	return nil
}

// agrees says whether the kernel's sets hold as much as the image; those that it
// does not know are taken into it if they are new.
func (im *image) agrees(headers map[setID]header) bool {
	counts := im.counts()
	for id, found := range headers {
		p, _, isProperty := parseProperty(id)
		if isProperty && im.properties[p] == nil {
			im.properties[p] = map[rule.Port]halfMask{}
		}
		if (isProperty || slices.Contains(fixedSets, id)) && !untallied(id) && found.entries != counts[id] {
			return false
		}
	}
	for p := range im.properties {
		for _, id := range p.sets() {
			if _, ok := headers[id]; !ok {
				return false
			}
		}
	}
	return true
}

// untallied are the sets whose entries come and go without us.
func untallied(id setID) bool {
	return slices.Contains([]setID{exempt4, exempt6, alive4, alive6}, id)
}

// exempt makes the exempt sets hold the addresses of kube-ipvs0. A new one is
// judged until the next Sync: closed when in doubt.
func (d *Datapath) exempt(ctx context.Context) error {
	addresses, err := datapath.ReadAddresses(d.sets.h)
	if err != nil {
		return err
	}
	have := map[netip.Addr]bool{}
	for _, id := range []setID{exempt4, exempt6} {
		if err := d.sets.entries(id, func(e element) { have[e.prefix.Addr()] = true }); err != nil {
			return err
		}
	}
	var steps []step
	for addr := range have {
		if !addresses.Virtual[addr] {
			steps = append(steps, exemption(del, addr))
		}
	}
	for addr := range addresses.Virtual {
		if !have[addr] {
			steps = append(steps, exemption(add, addr))
		}
	}
	return d.sets.change(ctx, steps)
}

func exemption(v verb, addr netip.Addr) step {
	return step{v, element{set: in(addr, exempt4, exempt6), prefix: netip.PrefixFrom(addr, addr.BitLen())}}
}

// image reads the sets that are there.
func (k *ipsets) image(headers map[setID]header) (*image, error) {
	im := newImage()
	for id := range headers {
		add := im.add
		if p, _, ok := parseProperty(id); ok {
			add = im.having(p)
		} else if !slices.Contains(fixedSets, id) || id == exempt4 || id == exempt6 {
			continue
		}
		if err := own(headers, id); err != nil {
			return nil, err
		}
		if err := k.entries(id, add); err != nil {
			return nil, err
		}
	}
	im.sort()
	return im, nil
}

// refresh reads what is alive anew.
func (k *ipsets) refresh(im *image) error {
	if len(im.ends)+len(im.alive) == 0 {
		return nil
	}
	im.alive = map[rule.Port]seconds{}
	for _, id := range []setID{alive4, alive6} {
		if err := k.entries(id, im.add); err != nil {
			return err
		}
	}
	return nil
}

// fullReadBack is the number of steps from which one listing of everything is
// cheaper than asking for each changed entry.
const fullReadBack = 2000

// readBack makes sure that the sets hold what the steps of the plan made of them.
func (d *Datapath) readBack(p plan, want *image) error {
	steps := p.steps()
	if len(steps) >= fullReadBack {
		headers, err := d.sets.headers()
		if err != nil {
			return err
		}
		found, err := d.sets.image(headers)
		if err != nil {
			return err
		}
		if !found.equal(want) {
			return fmt.Errorf("the sets do not read back as written: %w", datapath.ErrDamaged)
		}
		return nil
	}
	soon := time.Now().Unix() + slack
	for _, s := range steps {
		if s.second != 0 && s.second <= soon {
			continue // it may be gone by now
		}
		found, err := d.sets.contains(s.element)
		if err != nil {
			return err
		}
		if found != want.contains(s.element) {
			return fmt.Errorf("set %s does not read back as written for %v %v: %w", s.set, s.port, s.prefix, datapath.ErrDamaged)
		}
	}
	return nil
}
