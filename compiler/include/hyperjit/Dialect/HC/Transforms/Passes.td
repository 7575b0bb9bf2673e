//===- Passes.td - Passes over hc functions -----------------*- tablegen -*-===//
// SPDX-License-Identifier: Apache-2.0
#ifndef HYPERJIT_HC_PASSES
#define HYPERJIT_HC_PASSES

include "mlir/Pass/PassBase.td"

def Specialize : Pass<"hc-specialize", "::mlir::ModuleOp"> {
  let summary = "Bind the row width and the storage types; rewrite norms";
  let description = [{
    Replaces the symbolic width `d` by an integer in every type, gives every
    argument and result its storage type, binds `hc.round` edges to storage
    types (and drops them where the storage type is the compute type), and
    rewrites `hc.norm` into statistics, coefficient maths and, where the norm
    feeds a projection, a scale of the product: a normed row is never stored.
    Runs after canonical names are known, before differentiation.
  }];
  let options = [
    Option<"width", "width", "int64_t", "0", "channels of a row (D / m)">,
    Option<"stream", "stream", "std::string", "\"f32\"", "storage type of the streams">,
    Option<"branchIn", "branch-in", "std::string", "\"f32\"", "storage type of the branch input">,
    Option<"branchOut", "branch-out", "std::string", "\"f32\"", "storage type of the branch output">,
    Option<"weight", "weight", "std::string", "\"f32\"", "storage type of parameters">];
}

def Split : Pass<"hc-split", "::mlir::ModuleOp"> {
  let summary = "Cut sites at the hole into @before and @after";
  let description = [{
    Every function that holds an `hc.branch` becomes two: what leads to the
    branch input and to the crossing values, and what makes the next streams
    of them. Coefficients are made before the hole, wide rows after it: a
    coefficient costs bytes, a row costs a whole u. Crossing values are packed
    into one tensor a kind: `coefficients` (a token's), `uniform` (the whole
    batch's) and `channels` (vectors over channels). Applied to the adjoint of
    a site the same rule gives the backward cut in which everything the
    branch's own cotangent does not need waits for the second part.

    A site's first argument and first result are its streams, and it has one
    hole; an adjoint has a cotangent of the streams among its arguments, and
    nothing crosses its hole. Everything else is refused. Functions without a
    hole stay as they are.
  }];
}

def FuseBoundary : Pass<"hc-fuse-boundary", "::mlir::ModuleOp"> {
  let summary = "Join @after of one site with @before of the next";
  let description = [{
    The streams that @after makes become the streams that @before reads, so
    that they are written once and not read again. Arguments and results keep
    the order of the kernel's operand list.

    The module holds one function of role after, whose first result is the
    streams, and one of role before, whose first argument they are; several of
    one role are refused. @boundary takes the place of both and has the
    attributes of @before. Other functions stay as they are.
  }];
}

def Differentiate : Pass<"hc-differentiate", "::mlir::ModuleOp"> {
  let summary = "Reverse mode through the adjoint interface";
  let description = [{
    Replaces the function by its adjoint: arguments are the function's own,
    the saved reductions, and the given cotangents; results are the wanted
    cotangents. A site has one hole at most. Streams that a function reads and does not make anew are handed
    on as they are: x among the given, which the default names, is their
    cotangent then. Forward values are recomputed from the arguments,
    reductions over channels are read from what the forward kernel saved. A
    cotangent of a uniform value is summed over tokens.
  }];
  let options = [
    Option<"given", "given", "std::string", "\"xuck\"", "cotangents that exist: x streams, u branch input, c coefficients, k carries">,
    Option<"want", "want", "std::string", "\"xycpk\"", "cotangents to make: x, y, c, p parameters, k">];
}

def SaveReductions : Pass<"hc-save-reductions", "::mlir::ModuleOp"> {
  let summary = "Add the result `saved`: the reductions that backward would repeat";
  let description = [{
    Reductions over channels (projections, norm statistics) of a token are the
    only forward values that cost a pass over the streams; they are packed
    into one result. Everything else is recomputed in backward. The part after
    a hole has no such result: its reductions are made again.

    `hc.saved` on the function is how many numbers callers have room for, which
    they know from the recorded program. Canonicalization finds reductions that
    are equal, or none where the program has one, so what is left is zeros, and
    what does not fit is made again.
  }];
}

def FormPhases : Pass<"hc-form-phases", "::mlir::ModuleOp"> {
  let summary = "Assign phases and stages, count traffic, refuse what no skeleton covers";
  let description = [{
    Gives every op `phase` (P, M, R, C, W, E) and `stage`, and sorts by stage.
    Stage s maps use coefficients of stage s; reductions over rows of stage s
    make coefficients of stage s + 1; a sum over tokens belongs to the stage of
    its operands; what follows such a sum is the epilogue E.

    Refuses what no skeleton covers: an operand of more than 32 rows a token,
    an op that makes more than 96, more than 6 reductions in a row, a second
    pass over the streams, a weight for every token; and a result that is a
    weight or a sum over tokens without `hc.uniform`.

    Writes on the function, in u = `hc.m` rows a token where the name ends so:
    `hc.reads_u` and `hc.writes_u`, rows from and to memory; `hc.saved_u`,
    streams and branch outputs that are kept for backward; `hc.narrow_bytes`,
    bytes of coefficients a token; `hc.exposed`, coefficient maths that a map
    waits for; `hc.stages`, the number of stages.
  }];
}

#endif
