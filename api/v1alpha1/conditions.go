package v1alpha1

// Condition types. The first five are the gates of a policy; Ready is True when
// all of them are. A gate that does not apply is True with reason NotRequired.
const (
	// Accepted: the policy is valid together with its pool and Service.
	Accepted = "Accepted"
	// Allocated: every port has its number.
	Allocated = "Allocated"
	// Exposed: the companion Service stands and carries those numbers.
	Exposed = "Exposed"
	// HostEnforced: every Ready eligible node has proved that it enforces the policy.
	HostEnforced = "HostEnforced"
	// CloudEnforced: every cloud firewall was re-read and holds the policy's rules.
	CloudEnforced = "CloudEnforced"
	// Ready sums the others up.
	Ready = "Ready"
	// Reconciling is True while we work, or wait for something that may come by itself.
	Reconciling = "Reconciling"
	// Stalled is True when a person must act.
	Stalled = "Stalled"

	// Shadowed (abnormal when True): something else opens what the policy restricts.
	Shadowed = "Shadowed"
	// Conflict (abnormal when True): somebody else holds what the policy asks for.
	Conflict = "Conflict"
	// Unanswered (abnormal when True): a port is open, and nothing answers there from any
	// node of those that should. It is no gate.
	Unanswered = "Unanswered"
	// Fronted, of a policy with a front: what stands before the nodes is current. It is no
	// gate: the ports are in force without it.
	Fronted = "Fronted"
	// Overlaps (abnormal when True): an older pool owns part of this pool's ranges.
	Overlaps = "Overlaps"
	// OutOfRange, on a pool (abnormal when True): part of its ranges lies outside the
	// API server's node-port range.
	OutOfRange = "OutOfRange"
	// Exhausted, on a pool (abnormal when True): few numbers are left, or none.
	Exhausted = "Exhausted"
	// Enforced, on a NodeDatapath: the kernel was read back and holds what the marks say.
	Enforced = "Enforced"
)

// Reasons, a closed list: every condition of ours carries one of these.
const (
	ReasonOK          = "OK"
	ReasonNotRequired = "NotRequired"
	ReasonProgressing = "Progressing"

	// Accepted.
	ReasonInvalid                 = "Invalid"
	ReasonServiceNotFound         = "ServiceNotFound"
	ReasonServiceHeadless         = "ServiceHeadless"
	ReasonServiceExternalName     = "ServiceExternalName"
	ReasonServiceWithoutSelector  = "ServiceWithoutSelector"
	ReasonServicePortNotFound     = "ServicePortNotFound"
	ReasonServicePortsAmbiguous   = "ServicePortsAmbiguous"
	ReasonPoolNotFound            = "PoolNotFound"
	ReasonNamespaceNotAllowed     = "NamespaceNotAllowed"
	ReasonPinOutsidePool          = "PinOutsidePool"
	ReasonCloudFirewallNotAllowed = "CloudFirewallNotAllowed"
	ReasonSourceRefused           = "SourceRefused"
	ReasonExpiryRefused           = "ExpiryRefused"
	ReasonServiceInPlace          = "ServiceInPlace"
	ReasonExpired                 = "Expired"
	ReasonPlanned                 = "Planned"
	ReasonAudit                   = "Audit"

	// Allocated.
	ReasonPoolNotArmed  = "PoolNotArmed"
	ReasonExhausted     = "Exhausted"
	ReasonQuotaExceeded = "QuotaExceeded"
	ReasonConflict      = "Conflict"
	ReasonHijacked      = "Hijacked"

	// Exposed.
	ReasonServiceNameTaken = "ServiceNameTaken"
	// ReasonNetworkPolicyNameTaken: a NetworkPolicy that is not ours has the name of the policy's own.
	ReasonNetworkPolicyNameTaken = "NetworkPolicyNameTaken"
	ReasonServiceRefused         = "ServiceRefused"
	// ReasonForbidden: the manager lacks a right that is granted where it is wanted; of Fronted, too.
	ReasonForbidden = "Forbidden"

	// HostEnforced.
	ReasonNodesPending           = "NodesPending"
	ReasonNodesFailing           = "NodesFailing"
	ReasonNoNodes                = "NoNodes"
	ReasonNoGateways             = "NoGateways"
	ReasonNoEndpoints            = "NoEndpoints"
	ReasonLockdown               = "Lockdown"
	ReasonEnforcementUnsupported = "EnforcementUnsupported"

	// CloudEnforced and CloudFirewall.
	ReasonCloudFirewallNotFound = "CloudFirewallNotFound"
	ReasonDenied                = "Denied"
	ReasonBudgetExceeded        = "BudgetExceeded"
	ReasonThrottled             = "Throttled"
	ReasonUnreachable           = "Unreachable"
	ReasonContended             = "Contended"
	ReasonDrifted               = "Drifted"
	ReasonHidden                = "Hidden"
	ReasonObserving             = "Observing"
	ReasonCloned                = "Cloned"

	// The Portreeve object.
	ReasonAddressSetNotFound = "AddressSetNotFound"

	// Shadowed.
	ReasonServiceNodePort = "ServiceNodePort"
	ReasonForeignRule     = "ForeignRule"

	// Unanswered.
	ReasonNoAnswer = "NoAnswer"

	// Fronted. A name that is taken is a Conflict, too.
	ReasonFrontNameTaken      = "FrontNameTaken"
	ReasonFrontRefused        = "FrontRefused"
	ReasonHostnameRefused     = "HostnameRefused"
	ReasonExternalDNSNotFound = "ExternalDNSNotFound"
	ReasonNoAddresses         = "NoAddresses"

	// Pools.
	ReasonOverlaps        = "Overlaps"
	ReasonArming          = "Arming"
	ReasonOutOfRange      = "OutOfRange"
	ReasonNearlyExhausted = "NearlyExhausted"

	// NodeDatapath.
	ReasonStale    = "Stale"
	ReasonVanished = "Vanished"
	ReasonFailed   = "Failed"
	// ReasonCleaned: the rules were removed on purpose, and no agent has started since.
	ReasonCleaned = "Cleaned"
)
