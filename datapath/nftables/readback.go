package nftables

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portreeve/portreeve/datapath/internal/nfattr"
	"github.com/portreeve/portreeve/internal/rule"
)

// fullReadBack is the number of changes from which one listing of everything is
// cheaper than asking for each.
const fullReadBack = 500

// readWhole makes sure that the kernel holds want, by reading all of it.
func (d *Datapath) readWhole(want state, now time.Time) error {
	found, _, err := d.socket.read(now, nil)
	if err != nil {
		return err
	}
	if !found.Equal(want.Set) || !slices.Equal(found.virtual, want.virtual) {
		return damaged("it does not read back as written")
	}
	return nil
}

// readBack makes sure that the kernel holds what the change made of it.
func (d *Datapath) readBack(c change, want state, now time.Time) error {
	if len(c.addPorts)+len(c.deletePorts)+len(c.addGates)+len(c.addClasses) >= fullReadBack {
		return d.readWhole(want, now)
	}
	for _, g := range c.addGates {
		if err := d.checkGate(g, want); err != nil {
			return err
		}
	}
	for name, spans := range c.want {
		if !slices.Equal(spans, c.spans[name]) {
			if err := d.checkSpans(name, spans); err != nil {
				return err
			}
		}
	}
	for _, id := range c.addClasses {
		for _, f := range want.families(id) {
			if err := d.checkSpans(classSet(id, f), prefixSpans(f.of(want.Classes[id]))); err != nil {
				return err
			}
		}
	}
	for _, ports := range []map[rule.Port]rule.Gate{c.addPorts, c.deletePorts} {
		for port := range ports {
			if err := d.checkPort(port, want, now); err != nil {
				return err
			}
		}
	}
	if c.before != c.last {
		return d.checkChains(want.fixedChains(c.last))
	}
	return nil
}

func (d *Datapath) checkGate(g rule.Gate, want state) error {
	return d.checkChains(chainsOf(g, want.families, want.mute))
}

func (d *Datapath) checkChains(chains []chain) error {
	for _, c := range chains {
		have, err := d.socket.rules(c.name)
		if err != nil {
			return err
		}
		if err := c.check(have[c.name]); err != nil {
			return err
		}
	}
	return nil
}

func (d *Datapath) checkSpans(name string, want []span) error {
	elements, err := d.socket.elements(name)
	if err != nil {
		return err
	}
	have, err := spansOf(name, elements)
	if err == nil && !slices.Equal(have, want) {
		err = damaged("set %s does not read back as written", name)
	}
	return err
}

// checkPort asks where one port leads.
func (d *Datapath) checkPort(port rule.Port, want state, now time.Time) error {
	var found portTables
	var err error
	if found.open, err = d.socket.element(setPorts, portKey(port)); err != nil {
		return err
	}
	if found.ends, err = d.socket.element(setEnds, portKey(port)); err != nil {
		return err
	}
	if found.local, err = d.socket.element(setLocal, portKey(port)); err != nil {
		return err
	}
	var have state
	if err := have.takePorts(found, now); err != nil {
		return err
	}
	if have.Ports.Get(port) != want.Ports.Get(port) {
		return damaged("%s does not read back as written", port)
	}
	return nil
}

// element returns the element of that key, none if there is no such element.
func (s *socket) element(name string, key []byte) ([]kernelElement, error) {
	found, err := s.get(unix.NFT_MSG_GETSETELEM, func(a *nfattr.Builder) {
		a.String(unix.NFTA_SET_ELEM_LIST_TABLE, tableName)
		a.String(unix.NFTA_SET_ELEM_LIST_SET, name)
		a.Nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS, func() {
			a.Nest(unix.NFTA_LIST_ELEM, func() {
				a.Nest(unix.NFTA_SET_ELEM_KEY, func() { a.Bytes(unix.NFTA_DATA_VALUE, key) })
			})
		})
	})
	if errors.Is(err, unix.ENOENT) { // of the element, or of all
		_, err = s.tableFlags(tableName)
	}
	if err != nil {
		return nil, fmt.Errorf("ask set %s for an element: %w", name, err)
	}
	var out []kernelElement
	for _, value := range nfattr.All(valueOf(found, unix.NFTA_SET_ELEM_LIST_ELEMENTS)) {
		out = append(out, parseElement(value))
	}
	return out, nil
}
