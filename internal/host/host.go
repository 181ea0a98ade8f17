package host

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// Host is the node in whose network namespace its methods are called.
type Host struct {
	// ReservedPorts is where ReservedPorts is mounted writable, if elsewhere:
	// container runtimes mount /proc/sys read-only.
	ReservedPorts string
}

// BootID is that of the running kernel.
func BootID() (string, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(id)), err
}

// Uptime is how long the kernel has been running.
func (h Host) Uptime() (time.Duration, error) {
	text, err := os.ReadFile("/proc/uptime")
	if err != nil {
		return 0, err
	}
	return parseUptime(string(text))
}

// parseUptime reads /proc/uptime: seconds up, seconds idle.
func parseUptime(text string) (time.Duration, error) {
	up, _, _ := strings.Cut(strings.TrimSpace(text), " ")
	seconds, err := strconv.ParseFloat(up, 64)
	if err != nil || !(seconds >= 0) { // nor NaN
		return 0, fmt.Errorf("/proc/uptime: %q is no number of seconds", up)
	}
	return time.Duration(seconds * float64(time.Second)), nil
}
