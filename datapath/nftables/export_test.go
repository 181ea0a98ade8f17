package nftables

// NewShared opens the datapath as on a kernel that can't keep a table for its
// owner.
func NewShared() (*Datapath, error) {
	d, err := New()
	if err == nil {
		d.lacks.owner = true
	}
	return d, err
}
