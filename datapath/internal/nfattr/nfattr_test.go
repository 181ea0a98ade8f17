package nfattr

import "testing"

// FuzzAll: whatever the kernel (or a newer kernel) sends, walking ends and
// never reads outside the message.
func FuzzAll(f *testing.F) {
	f.Add([]byte{5, 0, 1, 0, 42, 0, 0, 0, 6, 0, 4, 0x40, 0x75, 0x30})
	f.Add([]byte{0, 0, 0, 0})
	f.Add([]byte{255, 255, 1, 0, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		total := 0
		for _, value := range All(b) {
			total += headerLen + len(value)
		}
		if total > len(b) {
			t.Fatalf("yielded %d bytes out of %d", total, len(b))
		}
	})
}

func TestAllYieldsTypeWithoutFlagsAndValueWithoutPadding(t *testing.T) {
	message := []byte{5, 0, 1, 0, 42, 0, 0, 0, 6, 0, 4, 0x40, 0x75, 0x30}
	seen := 0
	for typ, value := range All(message) {
		seen++
		switch typ {
		case 1:
			if Uint8(value) != 42 || len(value) != 1 {
				t.Errorf("attribute 1 = %v", value)
			}
		case 4:
			if Uint16(value) != 30000 {
				t.Errorf("attribute 4 = %v", value)
			}
		}
	}
	if seen != 2 {
		t.Errorf("saw %d attributes, want 2", seen)
	}
}
