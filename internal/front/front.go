package front

import (
	"net/netip"
	"slices"
)

// Protocol is TCP or UDP.
type Protocol string

// The protocols that a front carries.
const (
	TCP Protocol = "TCP"
	UDP Protocol = "UDP"
)

// Listener is one port of a front.
type Listener struct {
	// Name is unique among all listeners of a proxy: letters, digits and "-_.".
	Name     string
	Protocol Protocol
	Port     uint16
	// IPv4 and IPv6 say on addresses of which family it listens.
	IPv4, IPv6 bool
	Servers    []Server
}

// Server is one node behind a front.
type Server struct {
	// Name is unique among the servers of a listener.
	Name    string
	Address netip.AddrPort
}

// fit returns the listeners that have servers, less what may not stand in a file.
func fit(listeners []Listener) (out []Listener) {
	for _, l := range listeners {
		l.Servers = slices.DeleteFunc(slices.Clone(l.Servers), func(s Server) bool {
			a := s.Address.Addr()
			return !word(s.Name) || a.Zone() != "" || !a.IsGlobalUnicast() || s.Address.Port() == 0
		})
		known := l.Protocol == TCP || l.Protocol == UDP
		if known && word(l.Name) && l.Port != 0 && (l.IPv4 || l.IPv6) && len(l.Servers) > 0 {
			out = append(out, l)
		}
	}
	return out
}

// word says whether a name is one word to every parser: no space, quote, brace,
// semicolon, comment, variable or line end.
func word(name string) bool {
	if name == "" || len(name) > 253 {
		return false
	}
	for _, c := range []byte(name) {
		switch {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_', c == '.':
		default:
			return false
		}
	}
	return true
}

// header begins a file; of is the namespace and name of the policy.
func header(namespace, policy string) string {
	if !word(namespace) || !word(policy) {
		return "# Written by Portreeve. What is changed here is undone.\n"
	}
	return "# Written by Portreeve for NodePortPolicy " + namespace + "/" + policy + ". What is changed here is undone.\n"
}
