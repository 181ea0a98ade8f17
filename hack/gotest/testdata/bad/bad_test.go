package bad

import (
	"fmt"
	"os"
	"testing"
)

func TestMain(m *testing.M) {
	fmt.Println("from TestMain")
	os.Exit(m.Run())
}

func TestPasses(t *testing.T) { t.Log("not shown") }

func TestFails(t *testing.T) { t.Errorf("got %d, want %d", 1, 2) }

func TestFailsBelow(t *testing.T) {
	t.Log("above")
	t.Run("good", func(*testing.T) {})
	t.Run("bad", func(t *testing.T) { t.Fatal("below") })
}

func TestSkipped(t *testing.T) {
	t.Log("not the reason")
	t.Skip("no reason\n\tto run")
}
