package guard

import (
	"embed"
	"fmt"
	"io/fs"
	"path"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// The policies, which are also the names of their bindings. Others see these
// names: in refusals, in audit events and in the manager's RBAC.
const (
	Ports           = "portreeve-guard-ports"            // explicit node ports of a pool
	CaptureServices = "portreeve-guard-capture-services" // external IPs and load balancers on a pool's numbers
	CapturePods     = "portreeve-guard-capture-pods"     // host ports on a pool's numbers
	Allocations     = "portreeve-guard-allocations"      // the register
	Datapaths       = "portreeve-guard-datapaths"        // reports of nodes
	Undeclared      = "portreeve-guard-undeclared"       // NodePort Services without a policy
)

// Restorers is the group whose members may write the register, to restore it from
// a backup. It is impersonated; nobody is in it for good.
const Restorers = "portreeve.dev:restorers"

// namespace of the ServiceAccounts in the YAML files.
const namespace = "portreeve-system"

//go:embed policies/*.yaml
var files embed.FS

// Names of all policies and of all bindings, in order.
func Names() []string {
	return []string{Allocations, CapturePods, CaptureServices, Datapaths, Ports, Undeclared}
}

// Policies returns all policies in the order of their names, the ServiceAccounts
// of the manager and the agents being those of the given namespace. It fails if
// that is no namespace's name: a manager that the guard does not know by its name
// could no longer write.
func Policies(installedIn string) ([]admissionregistrationv1.ValidatingAdmissionPolicy, error) {
	if problems := validation.IsDNS1123Label(installedIn); len(problems) > 0 {
		return nil, fmt.Errorf("namespace %q of the installation: %s", installedIn, strings.Join(problems, "; "))
	}
	names, err := fs.Glob(files, "policies/*.yaml") // sorted
	if err != nil {
		return nil, err
	}
	var all []admissionregistrationv1.ValidatingAdmissionPolicy
	for _, name := range names {
		data, err := files.ReadFile(name)
		if err != nil {
			return nil, err
		}
		text := strings.ReplaceAll(string(data), account(namespace, ""), account(installedIn, ""))
		var policy admissionregistrationv1.ValidatingAdmissionPolicy
		if err := yaml.UnmarshalStrict([]byte(text), &policy); err != nil {
			return nil, fmt.Errorf("%s: %w", path.Base(name), err)
		}
		policy.Labels = labels()
		all = append(all, policy)
	}
	return all, nil
}

// account is the user name of a ServiceAccount.
func account(namespace, name string) string {
	return "system:serviceaccount:" + namespace + ":" + name
}

// labels of everything of ours.
func labels() map[string]string {
	return map[string]string{"app.kubernetes.io/part-of": "portreeve"}
}

// Bindings returns what puts the policies into force, in the order of their names:
// none when the mode is Off. NodePort Services without a policy are judged in the
// namespaces that undeclared picks; nil picks none.
//
// The API server authorizes a binding with parameters by its policy, so that must
// be there first.
func Bindings(mode v1alpha1.GuardMode, undeclared *metav1.LabelSelector) []admissionregistrationv1.ValidatingAdmissionPolicyBinding {
	if mode != v1alpha1.GuardAudit && mode != v1alpha1.GuardEnforce {
		return nil
	}
	var all []admissionregistrationv1.ValidatingAdmissionPolicyBinding
	for _, name := range Names() {
		binding := admissionregistrationv1.ValidatingAdmissionPolicyBinding{
			TypeMeta: metav1.TypeMeta{
				APIVersion: admissionregistrationv1.SchemeGroupVersion.String(), Kind: "ValidatingAdmissionPolicyBinding",
			},
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels()},
			Spec: admissionregistrationv1.ValidatingAdmissionPolicyBindingSpec{
				PolicyName: name, ValidationActions: actions(mode, name),
			},
		}
		switch name {
		case Ports, CaptureServices, CapturePods: // every pool; where there is none, there is nothing to guard
			binding.Spec.ParamRef = &admissionregistrationv1.ParamRef{
				Selector: &metav1.LabelSelector{}, ParameterNotFoundAction: ptr.To(admissionregistrationv1.AllowAction),
			}
		case Undeclared:
			if undeclared == nil {
				continue
			}
			binding.Spec.MatchResources = &admissionregistrationv1.MatchResources{
				NamespaceSelector: undeclared.DeepCopy(), ObjectSelector: &metav1.LabelSelector{},
				MatchPolicy: ptr.To(admissionregistrationv1.Equivalent),
			}
		}
		all = append(all, binding)
	}
	return all
}

// actions are what is done about an offence. Reports of other nodes are refused in Audit,
// too: no user writes any, so there is nobody to be warned before, and one that is
// believed may give a number away that a node still admits its former clients to.
func actions(mode v1alpha1.GuardMode, name string) []admissionregistrationv1.ValidationAction {
	if mode == v1alpha1.GuardEnforce || name == Datapaths {
		return []admissionregistrationv1.ValidationAction{admissionregistrationv1.Deny, admissionregistrationv1.Audit}
	}
	return []admissionregistrationv1.ValidationAction{admissionregistrationv1.Warn, admissionregistrationv1.Audit}
}
