package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A spawner starts processes, all from one thread that lives as long as it
// does. That makes PR_SET_PDEATHSIG reliable, which fires when the *thread* that
// forked ends: children die with us, however we die, and never before.
type spawner struct{ requests chan func() }

func newSpawner() *spawner {
	s := &spawner{requests: make(chan func())}
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		for start := range s.requests {
			start()
		}
	}()
	return s
}

func (s *spawner) start(cmd *exec.Cmd, in *Namespace) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setpgid:   true, // a Ctrl-C is for us, who then stop things in order
		Pdeathsig: unix.SIGKILL,
	}
	result := make(chan error)
	s.requests <- func() {
		result <- onThreadIn(in, cmd.Start)
	}
	return <-result
}

func (s *spawner) close() { close(s.requests) }

// Command says what to run in a namespace of the lab.
type Command struct {
	// Name is that of the log file; a name used before appends to it.
	Name string
	// In is where the process lives. Nil means the control plane's namespace.
	In *Namespace
	// Argv is the program's path and its arguments.
	Argv []string
	// Env is added to a small environment that holds nothing of the caller's
	// but PATH, so that no developer's KUBECONFIG or AWS_PROFILE leaks in.
	Env []string
	// Dir is the working folder; empty means the lab's own.
	Dir string
}

// Process is a program that runs in a lab.
type Process struct {
	Name string
	PID  int
	Log  string // path of its log file

	process *os.Process
	done    chan struct{}
	err     error // set before done is closed
}

// Run starts a process. It is killed, with its whole process group, when the
// lab is closed or its owner dies.
func (c *Cluster) Run(ctx context.Context, command Command) (*Process, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	leave, err := c.enter()
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", command.Name, err)
	}
	defer leave()
	if command.In == nil {
		command.In = c.cp
	}
	log, err := os.OpenFile(filepath.Join(c.logDir, command.Name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close() // the child has its own descriptor

	cmd := exec.Command(command.Argv[0], command.Argv[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Dir = command.Dir
	if cmd.Dir == "" {
		cmd.Dir = c.dir
	}
	cmd.Env = append(c.baseEnv(command.In), command.Env...)
	if err := c.spawner.start(cmd, command.In); err != nil {
		return nil, fmt.Errorf("starting %s in %s: %w", command.Name, command.In.NetNS(), err)
	}
	p := &Process{
		Name: command.Name, PID: cmd.Process.Pid, Log: log.Name(),
		process: cmd.Process, done: make(chan struct{}),
	}
	stat, err := readStat(p.PID)
	if err == nil { // it can't be reaped yet, so its stat file is there
		err = c.journal.add(record{Process: &processID{PID: p.PID, Start: stat.start, Name: p.Name}})
	}
	go p.reap(cmd)
	c.processes.add(p)
	if err != nil {
		p.Kill()
		return nil, err
	}
	return p, nil
}

func (c *Cluster) baseEnv(in *Namespace) []string {
	env := []string{
		"PATH=" + searchPath(),
		"HOME=" + c.dir,
		// Else all nodes of all labs, and the host, would wait for one lock.
		"XTABLES_LOCKFILE=" + filepath.Join(c.dir, in.name+".xtables.lock"),
	}
	if dir := os.Getenv("GOCOVERDIR"); dir != "" {
		env = append(env, "GOCOVERDIR="+dir)
	}
	return env
}

// searchPath is the caller's, and sbin, which su and cron leave out.
func searchPath() string { return os.Getenv("PATH") + ":/usr/sbin:/sbin" }

// reap waits for the process and ends what is left of its group before its id
// is given back to the kernel, so the group kill can't hit a stranger.
func (p *Process) reap(cmd *exec.Cmd) {
	for {
		var info unix.Siginfo
		err := unix.Waitid(unix.P_PID, p.PID, &info, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	_ = unix.Kill(-p.PID, unix.SIGKILL) // usually nobody is left
	p.err = cmd.Wait()
	close(p.done)
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err is how the process ended: nil for exit status 0. It is nil while the
// process runs.
func (p *Process) Err() error {
	select {
	case <-p.done:
		return p.err
	default:
		return nil
	}
}

// Signal sends a signal to the process alone, if it still runs.
func (p *Process) Signal(sig syscall.Signal) {
	_ = p.process.Signal(sig) // ended meanwhile: nothing to tell
}

// Kill ends the process as a crash would, and returns when it is gone.
func (p *Process) Kill() {
	p.Signal(unix.SIGKILL)
	<-p.done
}

// Stop asks the process to end (SIGTERM) and kills it when it has not done so
// within grace. It returns when the process is gone.
func (p *Process) Stop(grace time.Duration) {
	p.Signal(unix.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(grace):
		p.Kill()
	}
}

// Tail returns the last lines of the process's log.
func (p *Process) Tail(lines int) string {
	data, err := os.ReadFile(p.Log)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// processSet holds the processes of a lab, for Close.
type processSet struct {
	mu  sync.Mutex
	all []*Process
}

func (s *processSet) add(p *Process) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, p)
}

func (s *processSet) kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.all {
		p.Signal(unix.SIGKILL)
	}
	for _, p := range s.all {
		<-p.done
	}
}
