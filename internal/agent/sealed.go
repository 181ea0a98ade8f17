package agent

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// errRefused: a file is there, and not one to be used.
var errRefused = errors.New("refused")

// maxSealed is many times the largest state: more is none of ours.
const maxSealed = 256 << 20

// sealed is a file by which the agent outlives a reboot. Its first line says what
// it is, in which version, and the SHA-256 of the JSON document that is the rest:
//
//	portreeve rules 1 5d41402abc4b2a76b9719d911017c592...
//	{"node":"n1",...}
//
// It is used whole or not at all.
type sealed struct {
	path    string
	what    string // one word
	version int
}

// save replaces the file as a whole, and returns when the disk has it.
func (s sealed) save(v any) error {
	data, err := s.seal(v)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(s.path), 0o755); err != nil {
		return err
	}
	return replace(s.path, data)
}

// replace writes a file that is there as a whole, or as it was, after a power cut.
func replace(path string, data []byte) error {
	next := path + ".next"
	if err := os.WriteFile(next, data, 0o600); err != nil {
		return err
	}
	if err := flush(next); err != nil {
		return err
	}
	if err := os.Rename(next, path); err != nil {
		return err
	}
	return flush(filepath.Dir(path))
}

// flush returns when the disk has what was written to the file or folder.
func flush(path string) error {
	f, err := os.Open(path) //nolint:gosec // the state directory is a flag
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// load reads the file into v. An error is fs.ErrNotExist, or wraps errRefused and
// says what is wrong; v is then of no use.
func (s sealed) load(v any) error {
	info, err := os.Stat(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return fs.ErrNotExist
	}
	if err == nil {
		err = ours(info)
	}
	var data []byte
	if err == nil {
		data, err = os.ReadFile(s.path)
	}
	if err == nil {
		err = s.open(data, v)
	}
	if err != nil {
		return fmt.Errorf("%s is %w: %w", s.path, errRefused, err)
	}
	return nil
}

// ours says whether nobody but us could have written a file.
func ours(info fs.FileInfo) error {
	stat, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.Mode().IsRegular() || info.Size() > maxSealed:
		return fmt.Errorf("a %s of %d bytes", info.Mode().Type(), info.Size())
	case ok && int64(stat.Uid) != int64(os.Geteuid()):
		return fmt.Errorf("it belongs to user %d, and this is user %d", stat.Uid, os.Geteuid())
	case info.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("others may write it (mode %s)", info.Mode().Perm())
	}
	return nil
}

func (s sealed) seal(v any) ([]byte, error) {
	document, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return append([]byte(s.head(document)), document...), nil
}

func (s sealed) head(document []byte) string {
	sum := sha256.Sum256(document)
	return fmt.Sprintf("portreeve %s %d %s\n", s.what, s.version, hex.EncodeToString(sum[:]))
}

// open reads what seal wrote; it is what stands between whatever bytes are on the
// disk and the kernel.
func (s sealed) open(data []byte, v any) error {
	head, document, _ := bytes.Cut(data, []byte("\n"))
	words := strings.Fields(string(head[:min(len(head), 200)]))
	if len(words) != 4 || words[0] != "portreeve" || words[1] != s.what {
		return fmt.Errorf("it does not begin with %q", "portreeve "+s.what)
	}
	if version, err := strconv.Atoi(words[2]); err != nil || version != s.version {
		return fmt.Errorf("it has version %s, and this agent reads %d", words[2], s.version)
	}
	if s.head(document) != string(head)+"\n" {
		return errors.New("its checksum does not match: it is torn or was changed")
	}
	decoder := json.NewDecoder(bytes.NewReader(document))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(v); err != nil {
		return err
	}
	if decoder.More() {
		return errors.New("there is more in it than one document")
	}
	return nil
}
