package host

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/portreeve/portreeve/internal/rule"
)

// ReservedPorts is the kernel's list of the numbers that it does not hand out as
// ephemeral source ports; each network namespace has its own.
const ReservedPorts = "/proc/sys/net/ipv4/ip_local_reserved_ports"

const (
	// A list must be read in one go, because a second read answers with nothing:
	// shortReserved holds most, longestReserved any that the kernel can tell.
	shortReserved, longestReserved = 4 << 10, 512 << 10
	// pageOfReserved is what the kernel takes from one write; the next goes on.
	pageOfReserved = 4000
)

// Reserved returns the numbers that the kernel keeps out of its ephemeral range.
func (h Host) Reserved() (rule.PortRanges, error) {
	text, err := readAtOnce(h.reserved(), shortReserved)
	if err == nil && len(text) > shortReserved-16 { // it may go on
		text, err = readAtOnce(h.reserved(), longestReserved)
	}
	if err != nil {
		return nil, err
	}
	return parseReserved(text)
}

func readAtOnce(path string, size int) (string, error) {
	f, err := os.Open(path) //nolint:gosec // a flag
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	text := make([]byte, size)
	n, err := f.Read(text)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return string(text[:n]), err
}

// Reserve replaces the kernel's list.
func (h Host) Reserve(ranges rule.PortRanges) (err error) {
	f, err := os.OpenFile(h.reserved(), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	at := int64(0)
	for _, page := range pages(ranges) {
		// The first write replaces the list, one further on adds to it.
		if n, err := f.WriteAt([]byte(page), at); err != nil {
			return err
		} else if at += int64(n); n < len(page) {
			return fmt.Errorf("%s: the kernel took %d of %d bytes", h.reserved(), n, len(page))
		}
	}
	return nil
}

func (h Host) reserved() string {
	if h.ReservedPorts != "" {
		return h.ReservedPorts
	}
	return ReservedPorts
}

// pages spells the ranges in pieces that the kernel takes at once.
func pages(ranges rule.PortRanges) []string {
	var out []string
	var page []string
	length := 0
	for _, r := range ranges.Strings() {
		if length+len(r)+1 > pageOfReserved {
			out, page, length = append(out, strings.Join(page, ",")+"\n"), nil, 0
		}
		page, length = append(page, r), length+len(r)+1
	}
	return append(out, strings.Join(page, ",")+"\n")
}

func parseReserved(text string) (rule.PortRanges, error) {
	text = strings.TrimSpace(text)
	if text == "" {
		return nil, nil
	}
	var ranges []rule.PortRange
	for _, s := range strings.Split(text, ",") {
		if s == "0" {
			continue // the kernel allows it, and it is no port
		}
		if last, ok := strings.CutPrefix(s, "0-"); ok {
			s = "1-" + last
		}
		r, err := rule.ParsePortRange(s)
		if err != nil {
			return nil, fmt.Errorf("reserved ports: %w", err)
		}
		ranges = append(ranges, r)
	}
	return rule.NewPortRanges(ranges...), nil
}
