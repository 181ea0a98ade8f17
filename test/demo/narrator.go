package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

// A narrator tells what happens and keeps the score.
type narrator struct {
	out                     io.Writer
	colour                  bool
	acts                    int
	passed, failed, skipped int
}

// newNarrator returns one who writes in colour only where a person looks at it,
// and who falls silent when ctx ends: what fails from then on fails for that.
func newNarrator(ctx context.Context, out *os.File) *narrator {
	_, err := unix.IoctlGetTermios(int(out.Fd()), unix.TCGETS)
	_, plain := os.LookupEnv("NO_COLOR")
	return &narrator{out: whileWanted{ctx, out}, colour: err == nil && !plain && os.Getenv("TERM") != "dumb"}
}

type whileWanted struct {
	ctx context.Context
	out io.Writer
}

func (w whileWanted) Write(text []byte) (int, error) {
	if w.ctx.Err() != nil {
		return len(text), nil
	}
	return w.out.Write(text)
}

// The colours, as SGR parameters.
const (
	bold  = "1"
	dim   = "2"
	red   = "1;31"
	green = "32"
	amber = "33"
)

func (n *narrator) paint(colour, text string) string {
	if !n.colour || text == "" {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

// title begins the story.
func (n *narrator) title(text string) { fmt.Fprintln(n.out, n.paint(bold, text)) }

// act begins a part of the story.
func (n *narrator) act(format string, args ...any) {
	n.acts++
	fmt.Fprintf(n.out, "\n%s\n", n.paint(bold, fmt.Sprintf("%d. ", n.acts)+fmt.Sprintf(format, args...)))
}

// gap leaves a line free.
func (n *narrator) gap() { fmt.Fprintln(n.out) }

// note explains.
func (n *narrator) note(format string, args ...any) {
	for line := range strings.Lines(fmt.Sprintf(format, args...)) {
		fmt.Fprintln(n.out, "   "+n.paint(dim, strings.TrimRight(line, "\n")))
	}
}

// shell shows a command and what it printed.
func (n *narrator) shell(command, output string) {
	fmt.Fprintln(n.out, "   "+n.paint(bold, "$ "+command))
	n.text(output)
}

// text shows what somebody else printed.
func (n *narrator) text(output string) {
	for line := range strings.Lines(strings.TrimSpace(output)) {
		fmt.Fprintln(n.out, "   "+strings.TrimRight(line, " \n"))
	}
}

// step tells of a preparation that took some time.
func (n *narrator) step(took time.Duration, format string, args ...any) {
	n.line(dim, "..", took, fmt.Sprintf(format, args...))
}

// A miss is a check that failed.
type miss struct{ want, seen string }

func (m miss) Error() string { return "expected " + m.want + ", seen " + m.seen }

// check counts an assertion: passed when err is nil. took is left out when zero.
func (n *narrator) check(took time.Duration, err error, format string, args ...any) bool {
	what := fmt.Sprintf(format, args...)
	if err == nil {
		n.passed++
		n.line(green, "ok", took, what)
		return true
	}
	n.failed++
	n.line(red, "FAIL", 0, what)
	var m miss
	if errors.As(err, &m) {
		n.detail("expected", m.want)
		n.detail("seen", m.seen)
	} else {
		n.detail("error", err.Error())
	}
	return false
}

// skip counts an assertion that this machine cannot make.
func (n *narrator) skip(format string, args ...any) {
	n.skipped++
	n.line(amber, "skip", 0, fmt.Sprintf(format, args...))
}

func (n *narrator) line(colour, mark string, took time.Duration, what string) {
	fmt.Fprintf(n.out, "   %s %8s  %s\n", n.paint(colour, fmt.Sprintf("%-4s", mark)), spell(took), what)
}

func (n *narrator) detail(label, text string) {
	indent := strings.Repeat(" ", 18)
	text = strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n"+indent+strings.Repeat(" ", 10))
	fmt.Fprintf(n.out, "%s%-9s %s\n", indent, label, text)
}

// score ends the story; it returns the exit status.
func (n *narrator) score() int {
	line := fmt.Sprintf("%d passed, %d failed", n.passed, n.failed)
	if n.skipped > 0 {
		line += fmt.Sprintf(", %d skipped", n.skipped)
	}
	colour, status := green, 0
	if n.failed > 0 || n.passed == 0 {
		colour, status = red, 1
	}
	fmt.Fprintf(n.out, "\n%s\n", n.paint(colour, line))
	return status
}

// columns aligns the cells of rows, which tabs separate.
func columns(rows []string) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 3, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(w, row)
	}
	_ = w.Flush() // a strings.Builder takes everything
	return b.String()
}

// spell writes a measured time with the digits that mean something.
func spell(d time.Duration) string {
	switch ms := float64(d) / float64(time.Millisecond); {
	case d == 0:
		return ""
	case ms < 9.95:
		return fmt.Sprintf("%.1f ms", ms)
	case ms < 999.5:
		return fmt.Sprintf("%.0f ms", ms)
	default:
		return fmt.Sprintf("%.2f s", d.Seconds())
	}
}
