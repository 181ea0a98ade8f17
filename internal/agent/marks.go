package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// versions holds a resource version of each kind, "" for none.
type versions struct {
	v1alpha1.Marks
	Node string `json:"node,omitempty"`
}

// of returns where the version of a kind stands.
func (v *versions) of(k kind) *string {
	return [kinds]*string{
		kindPools: &v.Pools, kindAllocations: &v.Allocations, kindAddressSets: &v.AddressSets,
		kindInstallation: &v.Installation, kindNode: &v.Node,
	}[k]
}

// memory is what an agent knows beyond a restart.
type memory struct {
	// The versions up to which the kernel has enforced what the API server said:
	// the floor below which no list is believed again.
	versions
	// Lockdown is the spec of the installation if it is in lockdown, which nothing
	// but its object may lift.
	Lockdown *v1alpha1.PortreeveSpec `json:"lockdown,omitempty"`
}

// marksFile keeps an agent's memory.
type marksFile struct{ path string }

func newMarksFile(dir string) marksFile { return marksFile{filepath.Join(dir, "marks.json")} }

// load returns no memory if there is no file. What can't be read is an error
// beside no memory: the caller may go on, less protected.
func (f marksFile) load() (memory, error) {
	data, err := os.ReadFile(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return memory{}, nil
	}
	if err != nil {
		return memory{}, err
	}
	var m memory
	if err := json.Unmarshal(data, &m); err != nil {
		return memory{}, fmt.Errorf("%s: %w", f.path, err)
	}
	for k := range kinds {
		version := *m.of(k)
		if _, err := older(version, ""); version != "" && err != nil {
			return memory{}, fmt.Errorf("%s: %s: %w", f.path, k, err)
		}
	}
	return m, nil
}

// save replaces the file as a whole. It does not wait for the disk: after a
// power cut the kernel is empty as well, and a torn file counts as none.
func (f marksFile) save(m memory) error {
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(f.path), 0o755); err != nil {
		return err
	}
	next := f.path + ".next"
	if err := os.WriteFile(next, append(data, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(next, f.path)
}
