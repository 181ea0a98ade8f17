package broken

import "testing"

func TestNothing(t *testing.T) { t.Log(undefined) }
