package rule

// Narrowed returns the ports on which some source that have lets in is not let in
// by want: those whose live connections need a sweep when want takes the place of
// have. A port on which want drops and have did not is among them, unless want
// opens it to the world. Where want denies somebody whom have did not deny, or
// judges on more addresses, it is every port.
func Narrowed(have, want Set) ProtocolPorts {
	dropping := want.dropping()
	if !CoversAll(have.Denied, want.Denied) || !coversAddresses(have, want) {
		return EveryProtocol(want.Judged)
	}
	lost := map[Protocol][]PortRange{}
	for n := range dropping.Subtract(have.dropping()).Numbers {
		for _, protocol := range Protocols {
			if !CoversAll(want.Passing(Port{protocol, n}), World) {
				lost[protocol] = append(lost[protocol], PortRange{n, n})
			}
		}
	}
	for c := range have.Ports.Changes(want.Ports) {
		if dropping.Contains(c.Key.Number) && !CoversAll(want.Passing(c.Key), have.Passing(c.Key)) {
			lost[c.Key.Protocol] = append(lost[c.Key.Protocol], PortRange{c.Key.Number, c.Key.Number})
		}
	}
	out := ProtocolPorts{}
	for protocol, ranges := range lost {
		out[protocol] = NewPortRanges(ranges...)
	}
	return out
}

// coversAddresses says whether want judges on no address on which have does not.
func coversAddresses(have, want Set) bool {
	return len(have.Addresses) == 0 || len(want.Addresses) > 0 && CoversAll(have.Addresses, want.Addresses)
}

// dropping are the numbers on which a source that is not admitted is dropped.
func (s Set) dropping() PortRanges { return s.Judged.Subtract(s.Audited) }
