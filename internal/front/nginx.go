package front

import (
	"fmt"
	"strings"
)

// Nginx returns a file for the stream block of nginx. Without a server it has no
// directive: nginx does not listen, since it knows no upstream that is empty.
//
// A node that dies is passed over for TCP after proxy_connect_timeout and left alone
// for fail_timeout, by all workers, which share the zone. Of UDP nginx cannot tell.
func Nginx(namespace, policy string, listeners []Listener) string {
	var b strings.Builder
	b.WriteString(header(namespace, policy))
	usable := fit(listeners)
	if len(usable) == 0 {
		b.WriteString("# No node answers now, so nothing is listened on.\n")
	}
	for _, l := range usable {
		fmt.Fprintf(&b, "upstream %s {\n\tzone %s 64k;\n", l.Name, l.Name)
		for _, s := range l.Servers {
			fmt.Fprintf(&b, "\tserver %s max_fails=1 fail_timeout=5s; # %s\n", s.Address, s.Name)
		}
		b.WriteString("}\nserver {\n")
		suffix := ""
		if l.Protocol == UDP {
			suffix = " udp"
		}
		if l.IPv4 {
			fmt.Fprintf(&b, "\tlisten %d%s;\n", l.Port, suffix)
		}
		if l.IPv6 {
			fmt.Fprintf(&b, "\tlisten [::]:%d%s;\n", l.Port, suffix)
		}
		fmt.Fprintf(&b, "\tproxy_connect_timeout 2s;\n\tproxy_pass %s;\n}\n", l.Name)
	}
	return b.String()
}
