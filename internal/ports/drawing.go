package ports

import "slices"

// drawing is the state of one call of Choose: what is given so far.
type drawing struct {
	pools      []stock
	byName     map[string]*stock // nil when it would not pay
	used       Numbers           // taken, or given in this call
	given      Numbers           // given in this call: not even its owner gets it twice
	neighbours map[uint16]string // the caller's, read only
	placed     map[uint16]string // sources of the given numbers, when some pool asks for them
	seen       [near + far]gap   // room for a list of gaps, here so that one number allocates little
}

// stock is a pool while it is drawn from.
type stock struct {
	*Pool
	granted map[string]int // beside Used, which is the caller's
	span    int            // the range, and in it the number, before which none is free
	next    uint32
	winners []int // requests whose number is reserved here and not placed yet
}

// open begins a drawing for so many requests. It fills what its caller has on the
// stack: to allocate two sets of all numbers would cost most of a choice.
func (d *drawing) open(requests int, pools []Pool, taken *Numbers, neighbours map[uint16]string) {
	d.pools, d.used, d.neighbours = make([]stock, len(pools)), *taken, neighbours
	for i := range pools {
		d.pools[i].Pool = &pools[i]
		if pools[i].BySource && d.placed == nil {
			d.placed = map[uint16]string{}
		}
	}
	if requests > len(pools) {
		d.byName = make(map[string]*stock, len(pools))
		for i := range slices.Backward(d.pools) { // of two with one name, the first
			d.byName[d.pools[i].Name] = &d.pools[i]
		}
	}
}

func (d *drawing) pool(name string) *stock {
	if d.byName != nil {
		return d.byName[name]
	}
	for i := range d.pools {
		if d.pools[i].Name == name {
			return &d.pools[i]
		}
	}
	return nil
}

// pin serves a request for one certain number.
func (d *drawing) pin(r *Request) Choice {
	answer := Choice{Outcome: Outside, Number: r.Pin}
	for _, name := range r.Pools {
		p := d.pool(name)
		if p == nil || !p.Ranges.Contains(r.Pin) {
			continue
		}
		switch {
		case !d.available(r, r.Pin):
			return Choice{Outcome: Taken, Number: r.Pin, Pool: name}
		case p.allows(r.Namespace):
			return d.give(p, r, r.Pin)
		case answer.Outcome == Outside:
			answer = Choice{Outcome: OverQuota, Number: r.Pin, Pool: name}
		}
	}
	return answer
}

// prefer serves a request from its preferences, if one of them can be met.
func (d *drawing) prefer(r *Request) (choice Choice, met bool) {
	for _, n := range r.Prefer {
		if !d.available(r, n) {
			continue
		}
		for _, name := range r.Pools {
			if p := d.pool(name); p != nil && p.Ranges.Contains(n) && p.allows(r.Namespace) {
				return d.give(p, r, n), true
			}
		}
	}
	return Choice{}, false
}

// any serves request i, which takes whatever number there is. In a pool that
// places by source the number is only reserved: it shows that there is one, also
// where pools overlap, and place exchanges it.
func (d *drawing) any(r *Request, i int) Choice {
	outcome := Exhausted
	for _, name := range r.Pools {
		p := d.pool(name)
		if p == nil {
			continue
		}
		n, ok := p.lowest(&d.used)
		switch {
		case !ok:
		case !p.allows(r.Namespace):
			outcome = OverQuota
		case p.BySource:
			d.used.Add(n)
			p.count(r.Namespace)
			p.winners = append(p.winners, i)
			return Choice{Outcome: Chosen, Number: n, Pool: name}
		default:
			return d.give(p, r, n)
		}
	}
	return Choice{Outcome: outcome}
}

// available says whether the request may have the number.
func (d *drawing) available(r *Request, n uint16) bool {
	if !d.used.Has(n) {
		return true
	}
	return !d.given.Has(n) && slices.Contains(r.Own, n)
}

func (d *drawing) give(p *stock, r *Request, n uint16) Choice {
	p.count(r.Namespace)
	d.occupy(n, r.Sources)
	return Choice{Outcome: Chosen, Number: n, Pool: p.Name}
}

func (d *drawing) occupy(n uint16, sources string) {
	d.used.Add(n)
	d.given.Add(n)
	if d.placed != nil {
		d.placed[n] = sources
	}
}

// allows says whether the quota leaves the namespace one more number.
func (p *stock) allows(namespace string) bool {
	return p.Quota == 0 || p.Used[namespace]+p.granted[namespace] < p.Quota
}

func (p *stock) count(namespace string) {
	if p.Quota == 0 {
		return
	}
	if p.granted == nil {
		p.granted = map[string]int{}
	}
	p.granted[namespace]++
}

// lowest returns the lowest free number. What is used stays used until all
// winners are known, so it goes on from where it last stood.
func (p *stock) lowest(used *Numbers) (uint16, bool) {
	for ; p.span < len(p.Ranges); p.span++ {
		span := p.Ranges[p.span]
		last := uint32(span.Last)
		if n := used.nextOut(max(p.next, uint32(span.First)), last); n <= last {
			p.next = n
			return uint16(n), true
		}
	}
	return 0, false
}
