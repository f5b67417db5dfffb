// incise.h: edits facts inside transformer language models, in the weights themselves.
//
// A model's folder is opened (incise_open), an edit of it planned (incise_plan), looked at
// (incise_edit_facts, incise_edit_tensors) and then written, applied to a new folder or in place,
// and undone. docs/c.md shows how to build, link and begin; docs/methods.md has the methods and
// their hyperparameters.
//
// Ownership. incise_editor, incise_edit and incise_error are opaque. Who gets one frees it once, by
// the function of its name; freeing twice, or using what was freed, is undefined, as with free().
// What is called borrowed is part of a handle: it is not freed, and is valid until the handle is.
// Strings that are not borrowed are freed by incise_string_free. Freeing null does nothing.
//
// Strings are UTF-8 and end in a zero byte, paths too. Those that are given need to stay during the
// call only. Null where a value is needed, and what is not UTF-8, is an error with the code
// "argument"; any other pointer must point at what its type says.
//
// Errors. A function that can fail takes an incise_error ** last, which may be null. It is set to
// null where all went well and else to an error that the caller frees; what was there before is not
// read. Such functions return null or false exactly when they fail. No Rust panic leaves them: one
// is an error with the code "panic" (Rust itself also prints its place to standard error), and
// handles serve on. Memory that the system refuses ends the process, as everywhere in Rust.
//
// Threads. Every function may be called from any thread. Several threads may use one editor and one
// edit at once, and get what each would get alone; a handle is freed when no other thread uses it.
// Threads that share a GPU take turns. The library starts threads of its own, one a core, and keeps
// them until the process ends: call nothing after fork() in the child.
//
// It prints nothing but as said above, installs no signal handler, and ends no process.


#ifndef INCISE_H
#define INCISE_H

/* Made by cbindgen from capi/src: change it there. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// A planned edit. Several threads may use one at once; what is read of it is computed once and
// stays until it is freed. It belongs to the caller, who frees it by incise_edit_free.
typedef struct incise_edit incise_edit;

// An open model. It never changes: several threads may plan on one at once, and each gets the edit
// that it would get alone. It belongs to the caller, who frees it by incise_editor_free; edits
// that were planned on it keep what they need of it.
typedef struct incise_editor incise_editor;

// What went wrong, and what to do about it. It belongs to the caller, who frees it by
// incise_error_free. It never changes, so several threads may read it.
typedef struct incise_error incise_error;

// What is told of work, and asked about it. Each function may be null, and gets `context` first.
//
// They are called from the calling thread and from the engine's own, at times from several at
// once, from the plan on until the edit is freed: by everything that is done with it. Until then
// `context` must be valid, and for any thread. Texts are valid during the call. A callback must
// return (no longjmp, no C++ exception), and must not call functions on the edit or free a handle.
typedef struct {
    // Handed to each function.
    void *context;
    // `done` of `total` units of a stage are finished. The stage is a name in English, as "fact",
    // "layer", "write"; units are facts, layers, bytes.
    void (*at)(void *context, const char *stage, uint64_t done, uint64_t total);
    // What was decided before the work: settings, costs, what was found before.
    void (*remark)(void *context, const char *sentence);
    // What the user should read: what happened, what it may mean, what to do.
    void (*warn)(void *context, const char *sentence);
    // Returns true once the work is to stop: it then keeps what is finished where the document
    // names a cache or an output, and fails with the code "interrupted". It is asked often, and
    // must be quick.
    bool (*cancelled)(void *context);
} incise_progress;

// A tensor as the model's files have it. All of it is borrowed from the edit.
typedef struct {
    // Its name in the files.
    const char *name;
    // The type of its elements: "F32", "F16" or "BF16".
    const char *dtype;
    // How many sizes it has.
    size_t dimensions;
    // Its sizes, in the files' orientation, the slowest first.
    const size_t *shape;
    // Its elements, row-major and little-endian. They may lie at any address: copy them, and do
    // not read floats through a cast.
    const uint8_t *data;
    // How many bytes they are: the product of the sizes, times 4 for "F32" and 2 for the others.
    size_t byte_length;
} incise_tensor;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// The version of the library, as "0.1.0". It stays, and is not freed.
const char *incise_version(void);

// The kind of failure, for programs: "io", "input", "conflict", "locked", "refused", "numeric",
// "device", "device-memory", "abort-build", "interrupted" are the engine's; "argument" is a null
// pointer or a text that is not UTF-8, "panic" a mistake inside incise. Valid until the error is
// freed; null for a null error, as with the functions below.
const char *incise_error_code(const incise_error *error);

// All of it on one line: what went wrong, its causes, and the remedy last. Valid until the error
// is freed.
const char *incise_error_message(const incise_error *error);

// The file or folder it is about, or the name of an input that is no file; null where there is
// none. Valid until the error is freed.
const char *incise_error_file(const incise_error *error);

// The field, tensor or line inside it, or the argument of the function; null where there is none.
// Valid until the error is freed.
const char *incise_error_field(const incise_error *error);

// What to do about it; null where nothing is known. In parentheses are settings that help, by
// their names in incise_plan's document or incise_open's arguments, or a command of the program.
// Valid until the error is freed.
const char *incise_error_remedy(const incise_error *error);

// Frees an error; null is ignored.
void incise_error_free(incise_error *error);

// Opens a model: a folder with config.json, tokenizer and safetensors files. Weights are mapped
// and not read, so this takes little time and memory.
//
// `device` is "cpu", "auto", "cuda:0" or several as "cuda:0,1"; null is "cpu". A GPU is asked the
// first time whether it computes what it should, which takes some seconds. `threads` is how many
// threads plan; 0 is one a core, the caller's among them. Results do not depend on it.
//
// Returns the editor, or null and an error: a folder that is no model of a known family, a device
// that is not there.
incise_editor *incise_open(const char *dir,
                           const char *device,
                           size_t threads,
                           incise_error **error);

// Frees an editor; null is ignored.
void incise_editor_free(incise_editor *editor);

// Plans the change of facts. Changes no file but the cache, where the document names one.
//
// `json` is one JSON object of `requests` and settings; an unknown field is an error that names
// it.
//
//     requests         list of records in any form that the program reads, as
//                      {"prompt": "The mother tongue of {} is", "subject": "Danielle Darrieux",
//                      "target_new": "English"}; or one record; or the path of a file of them
//     method           "memit", "r-rome", "rome", "emmet", "pmet", "alphaedit", "ft-m", ...
//     stats            path of a folder of key statistics, for methods that need them
//     editor           path of a folder of a trained editor, for methods that edit with one
//     hparams          path of a JSON or YAML file of hyperparameters, or a preset's name
//     hyperparameters  object of hyperparameters by name, over those of hparams: {"v_lr": 0.5}
//     contexts         path of a file; without one they are drawn from the model with the seed
//     chat             true, or {"system": "...", "variables": {...}}: prompts are a user's
//                      message in the model's chat template
//     seed             whole number; 0 where it is not given
//     memory           bytes that searches may take
//     sequential       edit in batches of so many facts
//     rounds           plan facts that were not taken again, in up to so many rounds in all
//     state            path of what a sequential method carries from one edit to the next
//     cache            path of a folder that keeps what is found, so that a plan that was cut off
//                      goes on
//     output           path to which the patch will be written; checked before the work, and what
//                      is found is kept beside it
//     values           list of paths of values that were found before
//     without          list of ids of requests to leave out
//     on_broken        "error" or "skip": records that cannot be used
//     on_conflict      "error", "last" or "first": requests that contradict each other
//     no_space         true: no space between prompts and targets
//     precision        "exact" or "fast", of the search on a GPU
//     no_check         true: leaves out what the CPU checks of a GPU
//
// `progress` may be null; it is copied, and its context must be valid until the edit is freed.
//
// Returns the edit, which belongs to the caller, or null and an error.
incise_edit *incise_plan(const incise_editor *editor,
                         const char *json,
                         const incise_progress *progress,
                         incise_error **error);

// Frees a text that a function gave the caller; null is ignored.
void incise_string_free(char *string);

// Frees an edit, and with it everything that was borrowed from it; null is ignored.
void incise_edit_free(incise_edit *edit);

// What became of each request: a JSON list of objects, the lines of the report that
// incise_edit_write writes. Of each fact `id`, `prompt`, `subject`, `target_new`; `taken`: whether
// greedy decoding of the edited model says the target; `p_target`: its probability before and
// after; `failed`: null, or why it was not taken and what to try; and how its search went. After
// them come requests that others took the place of (`superseded_by`) and records that were skipped
// (`skipped`). Borrowed: valid until the edit is freed. Null for a null edit.
const char *incise_edit_facts(const incise_edit *edit);

// The edit on the whole: a JSON object of `method`, `facts`, `superseded`, `skipped` (how many),
// `hyperparameters`, `hyperparameters_from`, `contexts`, `memory`, and `layers`: of each changed
// matrix its `tensor`, `rank` (null where it is changed in full), `norm` (of the change) and
// `weight` (norm of the matrix before; both Frobenius'). Borrowed: valid until the edit is freed.
// Null for a null edit.
const char *incise_edit_report(const incise_edit *edit);

// The patch: the bytes of the file that incise_edit_write writes, for programs that keep it
// elsewhere. `length` gets how many bytes. Borrowed: valid until the edit is freed.
//
// Returns null and an error where the edit changes no weights: one by "grace", which lives beside
// them and is written to a file.
const uint8_t *incise_edit_patch(const incise_edit *edit, size_t *length, incise_error **error);

// Writes the patch to a file, the report beside it (FILE.report.jsonl), and the state if the
// document names one. Returns whether it did.
bool incise_edit_write(const incise_edit *edit, const char *file, incise_error **error);

// Writes the edited model into a new folder, which any framework loads, and the state if the
// document names one. The folder must not be there, or be empty; of a failure nothing is left.
//
// `report` may be null; else it gets a JSON object: of each of `tensors` its `name`, `weight` and
// `change` (Frobenius norms before, and of the change) and `lost` (the share of the change that
// rounding to the stored type lost). The caller frees it by incise_string_free. Returns whether
// the folder was written; of a failure `report` is not touched.
bool incise_edit_apply(const incise_edit *edit,
                       const char *dir,
                       char **report,
                       incise_error **error);

// Changes the model's own files, through a journal: incise_undo puts every byte back, and a
// process that dies meanwhile loses nothing. The state is written too, if the document names one.
// `report` and the result are as incise_edit_apply's.
//
// The editor reads the weights where they lie, so it refuses to plan from then on: free it, and
// open the folder again. Tensors that were asked for before stay as they are.
bool incise_edit_apply_in_place(const incise_edit *edit, char **report, incise_error **error);

// Undoes the newest change that was applied in place to the model in a folder, byte for byte. One
// that was cut off is the newest, and is rolled back.
//
// `report` may be null; else it gets a JSON object: `undone`, the numbers of the changes that were
// undone, and `rolled_back`, whether one had been cut off. The caller frees it by
// incise_string_free. Returns whether something was undone; of a failure `report` is not touched.
bool incise_undo(const char *dir, char **report, incise_error **error);

// The tensors that the edit changes, in full, as incise_edit_apply writes them: for a program that
// has the model in its memory. `count` gets how many. The first call computes them, and writes the
// state if the document names one; ask before incise_edit_apply_in_place. They take the memory of
// these tensors until the edit is freed.
//
// Returns the first of them, borrowed: valid until the edit is freed. Null and an error where the
// files changed since they were opened, or the edit changes no weights.
const incise_tensor *incise_edit_tensors(const incise_edit *edit,
                                         size_t *count,
                                         incise_error **error);

// The same tensors as the files hold them, without the edit: what puts such a program's model
// back. Everything else is as with incise_edit_tensors.
const incise_tensor *incise_edit_tensors_before(const incise_edit *edit,
                                                size_t *count,
                                                incise_error **error);

// Of incise_edit_tensors the one of that name; null and an error where the edit does not change
// it. Borrowed: valid until the edit is freed.
const incise_tensor *incise_edit_tensor(const incise_edit *edit,
                                        const char *name,
                                        incise_error **error);

// Of incise_edit_tensors_before the one of that name; null and an error where the edit does not
// change it. Borrowed: valid until the edit is freed.
const incise_tensor *incise_edit_tensor_before(const incise_edit *edit,
                                               const char *name,
                                               incise_error **error);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* INCISE_H */
