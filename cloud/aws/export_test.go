package aws

// Documented are the calls that have a rate, which are all that are made.
var Documented = documented

// OwnerTag is the signature's key.
const OwnerTag = ownerTag

// ReadBody makes bodies that are only read.
var ReadBody = readBody
