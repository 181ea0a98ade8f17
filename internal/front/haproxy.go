package front

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// HAProxy returns a file for HAProxy, which carries TCP only. HAProxy does not start
// without a listener: where there is no server, the file has one on a socket of the
// kernel that nobody knows, and which turns everybody away.
//
// Servers are checked by a connection every two seconds, so that a node that dies is
// left out before its Node is NotReady.
func HAProxy(namespace, policy string, listeners []Listener) string {
	var b strings.Builder
	b.WriteString(header(namespace, policy))
	listening := false
	for _, l := range fit(listeners) {
		if l.Protocol != TCP {
			continue
		}
		listening = true
		fmt.Fprintf(&b, "frontend %s\n\tmode tcp\n", l.Name)
		if l.IPv4 {
			fmt.Fprintf(&b, "\tbind 0.0.0.0:%d\n", l.Port)
		}
		if l.IPv6 {
			fmt.Fprintf(&b, "\tbind [::]:%d v6only\n", l.Port)
		}
		fmt.Fprintf(&b, "\ttimeout client 1h\n\tdefault_backend %s\n", l.Name)
		fmt.Fprintf(&b, "backend %s\n\tmode tcp\n\tbalance roundrobin\n\toption redispatch 1\n\tretries 3\n\ttimeout connect 2s\n\ttimeout server 1h\n", l.Name)
		for _, s := range l.Servers {
			fmt.Fprintf(&b, "\tserver %s %s check inter 2s fall 2 rise 1\n", s.Name, s.Address)
		}
	}
	if !listening {
		sum := sha256.Sum256([]byte(namespace + "/" + policy)) // a socket's name is short
		name := "portreeve-" + hex.EncodeToString(sum[:8])
		b.WriteString("# No node answers now, so no port is listened on.\n")
		fmt.Fprintf(&b, "frontend %s\n\tmode tcp\n\tbind abns@%s\n\ttimeout client 1s\n\ttcp-request connection reject\n", name, name)
	}
	return b.String()
}
