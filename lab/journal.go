package lab

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// stateRoot holds one folder per lab. It is in /run, not in a temporary folder,
// because Sweep kills by what it reads there: only root may write it.
const stateRoot = "/run/portreeve-lab"

// A journal is the list of what a lab has made on this machine. Its file is
// locked for as long as the owning process lives, so a dead owner is one whose
// lock is free: no id that may have been reused is ever asked. Descriptors are
// close-on-exec, so no child inherits the lock.
type journal struct {
	mu   sync.Mutex
	dir  string
	file *os.File
}

// A record is one line of the journal; exactly one field is set.
type record struct {
	Owner     *owner     `json:"owner,omitempty"`
	Process   *processID `json:"process,omitempty"`
	Namespace string     `json:"namespace,omitempty"`
	Dir       string     `json:"dir,omitempty"`
}

type owner struct {
	PID  int    `json:"pid"`
	Boot string `json:"boot"`
}

// claim makes the named lab ours, or fails if a living process has it.
func claim(name string) (*journal, error) {
	var j *journal
	err := withStateLock(func() error {
		dir := filepath.Join(stateRoot, name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			return fmt.Errorf("lab %s is already there: %w", name, err)
		}
		file, err := os.OpenFile(filepath.Join(dir, "journal"), os.O_CREATE|os.O_EXCL|os.O_RDWR|os.O_APPEND, 0o600)
		if err != nil {
			return err
		}
		if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			return errors.Join(err, file.Close())
		}
		j = &journal{dir: dir, file: file}
		return j.add(record{Owner: &owner{PID: os.Getpid(), Boot: bootID()}})
	})
	return j, err
}

func (j *journal) add(r record) error {
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if _, err := j.file.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("lab journal: %w", err)
	}
	return nil
}

// remove undoes everything in the journal and the journal itself.
func (j *journal) remove() error {
	return withStateLock(func() error {
		return errors.Join(undo(j.dir), j.file.Close())
	})
}

// Sweep removes what labs left behind whose owner died without closing them:
// processes, namespaces and folders. It never touches a lab whose owner lives.
// It returns the names of the labs it removed.
func Sweep() ([]string, error) {
	var swept []string
	err := withStateLock(func() error {
		journals, err := filepath.Glob(filepath.Join(stateRoot, "*", "journal"))
		if err != nil {
			return err
		}
		var errs []error
		for _, path := range journals {
			file, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			if unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
				dir := filepath.Dir(path)
				swept = append(swept, filepath.Base(dir))
				errs = append(errs, undo(dir))
			}
			errs = append(errs, file.Close())
		}
		return errors.Join(errs...)
	})
	return swept, err
}

// Shutdown ends a lab of another process, such as one left running to explore:
// it interrupts the owner, which must have called [Cluster.CloseOnInterrupt], and
// returns when the lab is gone. Of a dead owner's lab it sweeps what is left.
func Shutdown(ctx context.Context, name string) error {
	if _, err := Sweep(); err != nil {
		return err
	}
	dir := filepath.Join(stateRoot, name)
	records, err := readJournal(filepath.Join(dir, "journal"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, r := range records {
		if r.Owner != nil { // it lives: the sweep has left its lab alone
			if err := unix.Kill(r.Owner.PID, unix.SIGINT); err != nil {
				return fmt.Errorf("interrupting the owner of lab %s: %w", name, err)
			}
		}
	}
	for ctx.Err() == nil {
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		pause(ctx, retryPause)
	}
	return fmt.Errorf("waiting until lab %s is gone: %w", name, ctx.Err())
}

// withStateLock keeps claims and sweeps of several processes apart; without it
// a sweep could take a folder that is made but not yet locked for an orphan.
func withStateLock(fn func() error) error {
	if err := os.MkdirAll(stateRoot, 0o700); err != nil {
		return err
	}
	lock, err := os.OpenFile(filepath.Join(stateRoot, ".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("locking %s: %w", stateRoot, err)
	}
	return fn()
}

// undo removes what the journal in dir lists: processes, then namespaces, then
// folders, last of all dir, so that an undo cut short can be begun again.
func undo(dir string) error {
	records, err := readJournal(filepath.Join(dir, "journal"))
	if err != nil {
		return err
	}
	var processes []processID
	var namespaces, dirs []string
	for _, r := range records {
		switch {
		case r.Owner != nil && r.Owner.Boot != bootID():
			// An earlier boot: its processes and namespaces are gone, and the
			// ids may be somebody else's by now.
			processes, namespaces = nil, nil
		case r.Process != nil:
			processes = append(processes, *r.Process)
		case r.Namespace != "":
			namespaces = append(namespaces, r.Namespace)
		case r.Dir != "":
			dirs = append(dirs, r.Dir)
		}
	}
	errs := []error{killAll(processes, namespaces)}
	for _, name := range namespaces {
		errs = append(errs, deleteNamespace(name))
	}
	for _, d := range dirs {
		errs = append(errs, os.RemoveAll(d))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("removing lab %s: %w", filepath.Base(dir), err)
	}
	return os.RemoveAll(dir)
}

func readJournal(path string) ([]record, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var records []record
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		var r record
		// A last line cut short by a crash describes something not yet made.
		if json.Unmarshal(lines.Bytes(), &r) == nil {
			records = append(records, r)
		}
	}
	return records, lines.Err()
}

func deleteNamespace(name string) error {
	if _, err := os.Lstat(filepath.Join(netnsRoot, name)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if out, err := exec.Command("ip", "netns", "del", name).CombinedOutput(); err != nil {
		return fmt.Errorf("ip netns del %s: %w: %s", name, err, bytes.TrimSpace(out))
	}
	return nil
}

func bootID() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		panic(err) // every Linux has it
	}
	return strings.TrimSpace(string(id))
}
