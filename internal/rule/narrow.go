package rule

// Narrowed returns the port numbers on which some source that have lets in is
// not let in by want: those whose live connections need a sweep when want takes
// the place of have. A number on which want drops and have did not is among them,
// unless want opens all its protocols to the world.
func Narrowed(have, want Set) PortRanges {
	var lost []PortRange
	dropping := want.dropping()
	for n := range dropping.Subtract(have.dropping()).Numbers {
		if !want.open(n) {
			lost = append(lost, PortRange{n, n})
		}
	}
	for port, class := range have.Ports {
		if want.Ports[port] == class || !dropping.Contains(port.Number) {
			continue
		}
		still := want.Sources(port)
		for _, source := range have.Sources(port) {
			if !Covers(still, source) {
				lost = append(lost, PortRange{port.Number, port.Number})
				break
			}
		}
	}
	return NewPortRanges(lost...)
}

// dropping are the numbers on which a source that is not admitted is dropped.
func (s Set) dropping() PortRanges { return s.Judged.Subtract(s.Audited) }

// open says whether every source may reach the number by every protocol.
func (s Set) open(number uint16) bool {
	for _, protocol := range Protocols {
		sources := s.Sources(Port{protocol, number})
		for _, world := range World {
			if !Covers(sources, world) {
				return false
			}
		}
	}
	return true
}
