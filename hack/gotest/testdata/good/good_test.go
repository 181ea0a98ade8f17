package good

import (
	"fmt"
	"testing"
)

func TestOne(t *testing.T) { t.Log("not shown") }

func TestTwo(t *testing.T) {
	fmt.Println("not shown either")
	t.Run("four", func(*testing.T) {})
	t.Run("six", func(t *testing.T) { t.Skip("this kernel has no IPv6") })
}
