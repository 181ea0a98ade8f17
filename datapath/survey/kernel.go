package survey

import (
	"errors"
	"fmt"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/portreeve/portreeve/datapath/internal/nfattr"
)

// answers bounds the wait for the kernel, and for a program that asks it: many times what
// either takes.
const answers = 10 * time.Second

// kernel answers questions about nf_tables and ipset.
type kernel struct{ conn *netlink.Conn }

func openKernel() (kernel, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return kernel{}, fmt.Errorf("open netlink: %w", err)
	}
	if err := conn.SetDeadline(time.Now().Add(answers)); err != nil {
		_ = conn.Close()
		return kernel{}, fmt.Errorf("prepare netlink: %w", err)
	}
	return kernel{conn}, nil
}

func (k kernel) close() { _ = k.conn.Close() }

// ask returns the attributes of each answer.
func (k kernel) ask(family byte, subsystem, operation int, flags netlink.HeaderFlags, attributes ...netlink.Attribute) ([][]byte, error) {
	data, err := netlink.MarshalAttributes(attributes)
	if err != nil {
		return nil, err
	}
	answers, err := k.conn.Execute(netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(subsystem<<8 | operation), Flags: netlink.Request | flags},
		Data:   append([]byte{family, unix.NFNETLINK_V0, 0, 0}, data...), // struct nfgenmsg
	})
	if err != nil {
		return nil, err
	}
	var out [][]byte
	for _, a := range answers {
		if len(a.Data) >= 4 {
			out = append(out, a.Data[4:])
		}
	}
	return out, nil
}

// text is an attribute that holds a string.
func text(typ uint16, value string) netlink.Attribute {
	return netlink.Attribute{Type: typ, Data: append([]byte(value), 0)}
}

// each hands over the values of all attributes that lie under the path of types.
func each(attributes []byte, path []uint16, take func(value []byte)) {
	for typ, value := range nfattr.All(attributes) {
		switch {
		case typ != path[0]:
		case len(path) == 1:
			take(value)
		default:
			each(value, path[1:], take)
		}
	}
}

// absent says that there is no such thing, or nothing of its kind in the kernel.
func absent(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EAFNOSUPPORT)
}
