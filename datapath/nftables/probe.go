package nftables

import (
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/portreeve/portreeve/datapath"
	"github.com/portreeve/portreeve/internal/rule"
)

// lacking is what this kernel can't do.
type lacking struct {
	owner  bool  // keep a table for its owner, and after it
	log    error // why it can't log
	limits error // why it can't bound connections
	socket error // why it can't tell who listens
}

// probeName is of a table that is made and deleted within one transaction: nobody
// ever sees it.
const probeName = tableName + "-probe"

// probe asks the kernel what it can do.
func probe() (lacking, error) {
	var lacks lacking
	// All that any packet meets, but for the ways to chains that are not there.
	judge := slices.DeleteFunc(judgeRules(variant{addresses: true, virtual: true}), func(l line) bool {
		verdict, ok := l.exprs[len(l.exprs)-1].(*expr.Verdict)
		return ok && verdict.Chain != ""
	})
	if err := try(0, fixedSets(), append(append(judge, unservedRules(variant{})[0]), refusedRules()...)); err != nil && !cannot(err) {
		return lacks, fmt.Errorf("ask what nf_tables can do: %w", err)
	} else if err != nil {
		return lacks, fmt.Errorf("the kernel refuses nf_tables (CONFIG_NF_TABLES_INET, nft_ct, nft_fib_inet, nft_reject_inet; capability NET_ADMIN): %w: %w", datapath.ErrUnsupported, err)
	}
	lacks.owner = try(owned, nil, nil) != nil
	log := lineSet(datapath.Accepted, 1)
	lacks.log = try(0, []set{log.set()}, append(auditedRules(false), logLines(false, 1, datapath.Accepted)...))
	lacks.socket = try(0, nil, []line{on("", listening(), accept())})
	var sets []set
	var lines []line
	for _, f := range families {
		for _, d := range limitSets(rule.Limits{Connections: 1, PerSecond: 1, Burst: 1}, f) {
			sets = append(sets, d.set())
			lines = append(lines, on("", is(f), sourceProtocolNumber(f), d.update()))
		}
	}
	lacks.limits = try(0, sets, lines)
	return lacks, nil
}

// cannot tells what a kernel can't do from what it could not do just then.
func cannot(err error) bool {
	return slices.ContainsFunc([]error{unix.EOPNOTSUPP, unix.EAFNOSUPPORT, unix.EPROTONOSUPPORT, unix.ENOENT, unix.EPERM, unix.EINVAL}, func(is error) bool { return errors.Is(err, is) })
}

// try makes a table with a chain of such rules, and deletes it in the same
// transaction.
func try(flags uint32, sets []set, lines []line) error {
	s, err := openSocket()
	if err != nil {
		return err
	}
	defer s.close()
	b := batch{table: probeName}
	b.addTable(flags)
	for _, s := range sets {
		b.addSet(s)
	}
	c := chain{"probe", lines}
	b.addChain(c.name)
	if err := b.fill(c); err != nil {
		return err
	}
	b.deleteTable()
	return s.commit(b, 0)
}

// without returns the state less what the kernel can't do, and says so: a port
// whose limits can't be kept stays closed.
func (l lacking) without(want state) (state, error) {
	if l.limits == nil {
		return want, nil
	}
	ports := want.Ports.Edit()
	for p, g := range want.Ports.All {
		if g.Limits != (rule.Limits{}) {
			ports.Set(p, rule.Gate{})
		}
	}
	all := want.Ports.Len()
	want.Ports = ports.Table()
	closed := all - want.Ports.Len()
	if closed == 0 {
		return want, nil
	}
	return want, fmt.Errorf("the kernel can't bound connections (modules nft_connlimit, nft_limit), so the %d ports with limits stay closed: %w: %w", closed, l.limits, datapath.ErrFull)
}

// unlogged says that something is to be logged and can't be.
func (l lacking) unlogged(want state) error {
	if l.log == nil {
		return nil
	}
	asks := len(want.Audited) > 0
	for _, g := range want.Ports.All {
		asks = asks || g.Audit != "" || g.Log != (rule.Log{})
	}
	if !asks {
		return nil
	}
	return fmt.Errorf("the kernel refuses the rules that log (modules nft_log, nfnetlink_log, nft_limit): %w: %w", l.log, datapath.ErrUnlogged)
}
