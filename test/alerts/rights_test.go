package alerts

import (
	"fmt"

	authorizationv1 "k8s.io/api/authorization/v1"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// refused waits until the API server refuses a program its writes of a subresource: it
// hears by a watch that a right is gone, and what is written before that is written.
func (s *scene) refused(account, resource, subresource string) {
	s.Helper()
	s.eventually(fmt.Sprintf("%s may not write %s/%s", account, resource, subresource), func() error {
		review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			User:   "system:serviceaccount:portreeve-system:" + account,
			Groups: []string{"system:serviceaccounts", "system:serviceaccounts:portreeve-system", "system:authenticated"},
			ResourceAttributes: &authorizationv1.ResourceAttributes{
				Group: v1alpha1.GroupVersion.Group, Resource: resource, Subresource: subresource, Verb: "update", Name: "any",
			},
		}}
		if err := s.town.Client.Create(s.ctx, review); err != nil {
			return err
		}
		if review.Status.Allowed {
			return fmt.Errorf("it still may: %s", review.Status.Reason)
		}
		return nil
	})
}
