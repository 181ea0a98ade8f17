package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// processID names a process for good: the kernel reuses ids, but not together
// with the start time.
type processID struct {
	PID   int    `json:"pid"`
	Start string `json:"start"`
	Name  string `json:"name"`
}

// killAll kills what still runs of a lab and waits until it is gone.
func killAll(recorded []processID, namespaces []string) error {
	deadline := time.Now().Add(10 * time.Second)
	for {
		left := running(recorded, namespaces)
		if len(left) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes %v survive SIGKILL", left)
		}
		for _, pid := range left {
			_ = unix.Kill(pid, unix.SIGKILL) // gone meanwhile is as good
		}
		time.Sleep(5 * time.Millisecond) // not our children: nothing to wait on
	}
}

// running finds the recorded processes and their orphans. A recorded process is
// known by id and start time. An orphan's leader has died (PR_SET_PDEATHSIG does
// not reach grandchildren), so it is known by two things at once: the recorded
// process group, and being in one of the lab's namespaces. Either alone could be
// a stranger: an id used again, or a person's shell.
func running(recorded []processID, namespaces []string) []int {
	starts := map[int]string{}
	for _, p := range recorded {
		starts[p.PID] = p.Start
	}
	ours := map[inode]bool{}
	for _, name := range namespaces {
		if id, ok := inodeOf(filepath.Join(netnsRoot, name)); ok {
			ours[id] = true
		}
	}
	entries, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		panic(err) // only a bad pattern
	}
	var found []int
	for _, entry := range entries {
		pid, err := strconv.Atoi(filepath.Base(entry))
		if err != nil {
			continue
		}
		stat, err := readStat(pid)
		if err != nil || stat.state == "Z" {
			continue
		}
		_, member := starts[stat.group]
		id, _ := inodeOf(entry + "/ns/net")
		if starts[pid] == stat.start || member && ours[id] {
			found = append(found, pid)
		}
	}
	return found
}

// procStat is what we want of /proc/<pid>/stat.
type procStat struct {
	state string
	group int
	start string // in ticks since boot
}

// readStat reads fields 3, 5 and 22, counted after the command's name, which may
// hold spaces and parentheses itself.
func readStat(pid int) (procStat, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return procStat{}, err
	}
	text := string(data)
	fields := strings.Fields(text[strings.LastIndex(text, ")")+1:])
	if len(fields) < 20 {
		return procStat{}, fmt.Errorf("/proc/%d/stat: %q", pid, text)
	}
	group, err := strconv.Atoi(fields[2])
	return procStat{state: fields[0], group: group, start: fields[19]}, err
}

// An inode identifies a namespace, by whatever path it is reached.
type inode struct{ dev, ino uint64 }

func inodeOf(path string) (inode, bool) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return inode{}, false
	}
	return inode{dev: st.Dev, ino: st.Ino}, true
}
