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

// marksFile keeps, beyond a restart, the versions up to which the kernel has
// enforced what the API server said. It is the floor below which no list is
// believed again.
type marksFile struct{ path string }

func newMarksFile(dir string) marksFile { return marksFile{filepath.Join(dir, "marks.json")} }

// load returns no marks if there is no file. What can't be read is an error
// beside no marks: the caller may go on, less protected.
func (f marksFile) load() (v1alpha1.Marks, error) {
	data, err := os.ReadFile(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return v1alpha1.Marks{}, nil
	}
	if err != nil {
		return v1alpha1.Marks{}, err
	}
	var m v1alpha1.Marks
	if err := json.Unmarshal(data, &m); err != nil {
		return v1alpha1.Marks{}, fmt.Errorf("%s: %w", f.path, err)
	}
	for _, version := range []string{m.Pools, m.Allocations} {
		if _, err := older(version, ""); version != "" && err != nil {
			return v1alpha1.Marks{}, fmt.Errorf("%s: %w", f.path, err)
		}
	}
	return m, nil
}

// save replaces the file as a whole. It does not wait for the disk: after a
// power cut the kernel is empty as well, and a torn file counts as none.
func (f marksFile) save(m v1alpha1.Marks) error {
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
