package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
	"github.com/portreeve/portreeve/internal/rule"
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
		kindInstallation: &v.Installation, kindGatewaySets: &v.GatewaySets, kindNode: &v.Node,
	}[k]
}

// memory is what an agent knows beyond a restart.
type memory struct {
	// The versions up to which the kernel has enforced what the API server said:
	// the floor below which no list is believed again.
	versions
	// Standing is the spec of the installation while that outlives its object: nothing
	// else may lift a lockdown, or let in whom it denies.
	Standing *v1alpha1.PortreeveSpec `json:"standing,omitempty"`
	// Behind are numbers that the last good rules on disk may open too widely.
	Behind *behind `json:"behind,omitempty"`
}

// deniedSets are the networks of the AddressSets that the installation denies, by name.
// They are remembered because a set that is deleted stays denied.
type deniedSets map[string][]v1alpha1.CIDR

func (d deniedSets) objects() compile.Objects {
	var sets []metav1.Object
	for name := range d {
		sets = append(sets, &v1alpha1.AddressSet{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.AddressSetSpec{CIDRs: d[name]}})
	}
	return compile.ObjectsOf(sets...)
}

// stateFile keeps what an agent knows beyond a restart.
type stateFile[T any] struct {
	path  string
	check func(T) error
}

func newMarksFile(dir string) stateFile[memory] {
	return stateFile[memory]{filepath.Join(dir, "marks.json"), func(m memory) error {
		for k := range kinds {
			version := *m.of(k)
			if _, err := older(version, ""); version != "" && err != nil {
				return fmt.Errorf("%s: %w", k, err)
			}
		}
		if m.Behind == nil {
			return nil
		}
		_, err := rule.ParsePortRanges(m.Behind.Ports)
		return err
	}}
}

func newDeniedFile(dir string) stateFile[deniedSets] {
	return stateFile[deniedSets]{filepath.Join(dir, "denied.json"), func(deniedSets) error { return nil }}
}

// load returns nothing if there is no file. What can't be read is an error beside
// nothing: the caller may go on, less protected.
func (f stateFile[T]) load() (known T, err error) {
	var nothing T
	data, err := os.ReadFile(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nothing, nil
	}
	if err != nil {
		return nothing, err
	}
	if err := json.Unmarshal(data, &known); err != nil {
		return nothing, fmt.Errorf("%s: %w", f.path, err)
	}
	if err := f.check(known); err != nil {
		return nothing, fmt.Errorf("%s: %w", f.path, err)
	}
	return known, nil
}

// save replaces the file as a whole. It does not wait for the disk: after a
// power cut the kernel is empty as well, and a torn file counts as none.
func (f stateFile[T]) save(known T) error {
	data, err := json.Marshal(known)
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

// saveMarks waits for the disk if there is what must outlive a power cut: that the
// rules on it are behind.
func (a *Agent) saveMarks(m memory) error {
	if err := a.marksFile.save(m); err != nil || m.Behind == nil {
		return err
	}
	return flush(a.marksFile.path)
}
