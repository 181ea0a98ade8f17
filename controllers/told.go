package controllers

import "sync"

// told remembers what an event last said of each object, so that one that still is so is
// not told again. The zero value remembers nothing.
type told struct {
	mu   sync.Mutex
	said map[string]string
}

// news says whether this was not what was last said of the object, and remembers it.
func (t *told) news(object, text string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.said == nil {
		t.said = map[string]string{}
	}
	last, known := t.said[object]
	t.said[object] = text
	return !known || last != text
}

// over says that it is no longer so.
func (t *told) over(object string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.said, object)
}
