package nftables_test

import (
	"flag"
	"os"
	"testing"
)

// Most cases mostly wait for a silence, so more of them run at a time than there
// are processors, unless -parallel says otherwise.
func TestMain(m *testing.M) {
	flag.Parse()
	chosen := false
	flag.Visit(func(f *flag.Flag) { chosen = chosen || f.Name == "test.parallel" })
	if !chosen {
		if err := flag.Set("test.parallel", "6"); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}
