package compile

import (
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portreeve/portreeve/internal/table"
)

// Objects are all objects of one kind, by name. Nobody changes them.
type Objects = table.Table[Name, metav1.Object]

// Name is that of an object.
type Name string

// Compare orders names.
func (n Name) Compare(m Name) int { return strings.Compare(string(n), string(m)) }

// Page spreads names by the hash FNV-1a.
func (n Name) Page() uint16 {
	hash := uint32(2166136261)
	for i := range len(n) {
		hash = (hash ^ uint32(n[i])) * 16777619
	}
	return uint16(hash ^ hash>>16)
}

// ObjectsOf returns those objects. Of several with one name it is the last.
func ObjectsOf(list ...metav1.Object) Objects {
	e := Objects{}.Edit()
	for _, o := range list {
		e.Set(Name(o.GetName()), o)
	}
	return e.Table()
}

// Copies returns shallow copies of the objects, which are all *T.
func Copies[T any](objects Objects) []T {
	out := make([]T, 0, objects.Len())
	for _, o := range objects.All {
		out = append(out, *any(o).(*T))
	}
	return out
}
