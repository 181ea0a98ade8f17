package rule

// Narrowed returns the port numbers on which some source that have lets in is
// not let in by want: those whose live connections need a sweep when want takes
// the place of have. A number on which want drops and have did not is among them,
// unless want opens all its protocols to the world. Where want denies somebody
// whom have did not deny, or judges on more addresses, it is every number.
func Narrowed(have, want Set) PortRanges {
	dropping := want.dropping()
	if !CoversAll(have.Denied, want.Denied) || !coversAddresses(have, want) {
		return want.Judged
	}
	var lost []PortRange
	for n := range dropping.Subtract(have.dropping()).Numbers {
		if !want.open(n) {
			lost = append(lost, PortRange{n, n})
		}
	}
	for c := range have.Ports.Changes(want.Ports) {
		if dropping.Contains(c.Key.Number) && !CoversAll(want.Passing(c.Key), have.Passing(c.Key)) {
			lost = append(lost, PortRange{c.Key.Number, c.Key.Number})
		}
	}
	return NewPortRanges(lost...)
}

// coversAddresses says whether want judges on no address on which have does not.
func coversAddresses(have, want Set) bool {
	return len(have.Addresses) == 0 || len(want.Addresses) > 0 && CoversAll(have.Addresses, want.Addresses)
}

// dropping are the numbers on which a source that is not admitted is dropped.
func (s Set) dropping() PortRanges { return s.Judged.Subtract(s.Audited) }

// open says whether every source may reach the number by every protocol.
func (s Set) open(number uint16) bool {
	for _, protocol := range Protocols {
		if !CoversAll(s.Passing(Port{protocol, number}), World) {
			return false
		}
	}
	return true
}
