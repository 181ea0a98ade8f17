package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"reflect"
	"slices"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/rule"
)

// nodeMemory is what an agent knows of its node beyond a reboot.
type nodeMemory struct {
	Node string `json:"node"`
	Boot boot   `json:"boot"`
	// Firewall is with what its rules are enforced.
	Firewall v1alpha1.Firewall `json:"firewall,omitempty"`
	// Armed are the numbers of pools that have dropped here: who comes to listen on
	// one of them comes too late to be exempt.
	Armed []string `json:"armed"`
	// Exempt are ports on which something listened before.
	Exempt []exemption `json:"exempt"`
	// Reserved are the numbers that this agent, and nobody else, keeps out of the
	// ephemeral range of the boot.
	Reserved []string `json:"reserved"`
}

// boot is what happened since the kernel started.
type boot struct {
	ID string `json:"id"`
	// Exposed is how many seconds passed until something was enforced, nil if nobody
	// knows.
	Exposed *int64 `json:"exposedSeconds,omitempty"`
	// Fallback is the range that was closed because nothing better was known.
	Fallback []string `json:"fallback,omitempty"`
}

// exemption is a port on which everybody passes because of what listens there.
type exemption struct {
	Protocol rule.Protocol `json:"protocol"`
	Number   uint16        `json:"number"`
	What     string        `json:"what"`
}

func (e exemption) port() rule.Port { return rule.Port{Protocol: e.Protocol, Number: e.Number} }

func (m nodeMemory) exemptPorts() []rule.Port {
	ports := make([]rule.Port, len(m.Exempt))
	for i, e := range m.Exempt {
		ports[i] = e.port()
	}
	return ports
}

// ranges reads what readable has found to be readable.
func ranges(list []string) rule.PortRanges {
	out, _ := rule.ParsePortRanges(list)
	return out
}

func (m nodeMemory) readable() error {
	for _, list := range [][]string{m.Armed, m.Reserved, m.Boot.Fallback} {
		if _, err := rule.ParsePortRanges(list); err != nil {
			return err
		}
	}
	for _, e := range m.Exempt {
		if !slices.Contains(rule.Protocols, e.Protocol) || e.Number == 0 {
			return fmt.Errorf("%q/%d is no port", e.Protocol, e.Number)
		}
	}
	return nil
}

func newNodeFile(dir string) sealed { return sealed{filepath.Join(dir, "node"), "node", 1} }

// home is the node as its disk tells.
type home struct {
	nodeMemory
	file sealed
	// trace: Portreeve has worked on this node before, or on the one whose disk this was.
	trace bool
	// newcomer: there was no trace when this agent started.
	newcomer bool
	// lost: there was a memory of this node, and it can't be read. Nothing is exempt
	// that it may have known to come too late.
	lost bool
	// unwritten: what is known is not what the file holds.
	unwritten bool
}

func loadHome(file sealed, node string, log *slog.Logger) home {
	h := home{file: file, trace: true}
	err := file.load(&h.nodeMemory)
	if err == nil {
		if err = h.readable(); err != nil {
			err = fmt.Errorf("%s is %w: %w", file.path, errRefused, err)
		}
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		h.nodeMemory, h.trace = nodeMemory{}, false
	case err != nil:
		log.Error("what is known of this node can't be read, so what listens on it is not exempt any more; to exempt it again, stop the agent, run \"agent cleanup\", and start it", "error", err)
		h.nodeMemory, h.lost = nodeMemory{}, true
	case node != "" && h.Node != "" && h.Node != node:
		log.Warn("the state directory is that of another node; starting as on a new one", "file", file.path, "of", h.Node, "node", node)
		h.nodeMemory = nodeMemory{}
	}
	if node != "" {
		h.Node = node
	}
	return h
}

// remember keeps what is known of the node on disk, if it is new. It is known in
// memory also if that fails.
func (h *home) remember(next nodeMemory) error {
	if reflect.DeepEqual(next, h.nodeMemory) && !h.unwritten {
		return nil
	}
	h.nodeMemory, h.trace = next, true
	err := h.file.save(next)
	h.unwritten = err != nil
	return err
}
