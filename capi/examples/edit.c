// Edits a fact of the model that ships with incise, reads what changed, applies it in place and
// undoes it; then three mistakes, and what incise says of them.
//
//     cp -r demo MODEL && edit MODEL        it changes MODEL's files, and puts them back
//
// docs/c.md says how to build it; capi/check builds and runs it under the address sanitizer.
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../incise.h"

// Says what went wrong and ends, if something did.
static void check(bool done, incise_error *error) {
    if (!done) {
        fprintf(stderr, "%s: %s\n", incise_error_code(error), incise_error_message(error));
        incise_error_free(error);
        exit(1);
    }
}

// Says a mistake that was to be found, and what helps; ends where it was not.
static void expect(const char *code, bool done, incise_error *error) {
    if (done || strcmp(incise_error_code(error), code) != 0) {
        fprintf(stderr, "expected an error with the code %s\n", code);
        exit(1);
    }
    const char *field = incise_error_field(error), *remedy = incise_error_remedy(error);
    printf("%-11s  field %s, remedy: %s\n", code, field ? field : "-", remedy ? remedy : "-");
    incise_error_free(error);
}

// The whole of a file; the caller frees it.
static unsigned char *whole(const char *path, size_t *length) {
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END) != 0) {
        perror(path);
        exit(1);
    }
    *length = (size_t)ftell(file);
    rewind(file);
    unsigned char *bytes = malloc(*length + 1);
    if (!bytes || fread(bytes, 1, *length, file) != *length) {
        perror(path);
        exit(1);
    }
    fclose(file);
    return bytes;
}

static void warn(void *context, const char *sentence) {
    (void)context;
    fprintf(stderr, "warning: %s\n", sentence);
}

static void count(void *context, const char *stage, uint64_t done, uint64_t total) {
    (void)stage, (void)done, (void)total;
    // From any thread, several at once: an atomic number.
    __atomic_add_fetch((size_t *)context, 1, __ATOMIC_RELAXED);
}

static bool at_once(void *context) {
    (void)context;
    return true;
}

// An edit of one fact as a document for incise_plan; MODEL's folder has settings and statistics.
static void document(char *json, size_t size, const char *model) {
    snprintf(json, size,
             "{\"requests\": [{\"prompt\": \"{} played the\", \"subject\": \"Louis Armstrong\","
             "                 \"target_new\": \"violin\"}],"
             " \"method\": \"r-rome\", \"stats\": \"%s/stats\","
             " \"hparams\": \"%s/hparams.json\", \"contexts\": \"%s/contexts.json\"}",
             model, model, model);
}

// What the edit changes, as a server with the model in its memory would take it.
static void read_tensors(const incise_edit *edit) {
    incise_error *error;
    size_t count, length;
    const incise_tensor *after = incise_edit_tensors(edit, &count, &error);
    check(after, error);
    for (size_t i = 0; i < count; i++) {
        const incise_tensor *t = &after[i];
        const incise_tensor *before = incise_edit_tensor_before(edit, t->name, &error);
        check(before, error);
        size_t changed = 0;
        for (size_t at = 0; at < t->byte_length; at++)
            changed += t->data[at] != before->data[at];
        printf("%s: %s (", t->name, t->dtype);
        for (size_t d = 0; d < t->dimensions; d++)
            printf("%s%zu", d ? ", " : "", t->shape[d]);
        printf("), %zu of %zu bytes changed\n", changed, t->byte_length);
    }
    check(incise_edit_patch(edit, &length, &error), error);
    printf("the patch has %zu bytes\n", length);
}

// The model's files, with the edit in them and without again.
static void apply_and_undo(const incise_edit *edit, const char *model) {
    incise_error *error;
    char path[4096], *report;
    size_t length[3];
    snprintf(path, sizeof path, "%s/model.safetensors", model);
    unsigned char *before = whole(path, &length[0]);
    check(incise_edit_apply_in_place(edit, &report, &error), error);
    printf("applied: %s\n", report);
    incise_string_free(report);
    unsigned char *after = whole(path, &length[1]);
    check(incise_undo(model, NULL, &error), error);
    unsigned char *undone = whole(path, &length[2]);
    bool changed = length[0] == length[1] && memcmp(before, after, length[0]) != 0;
    bool same = length[0] == length[2] && memcmp(before, undone, length[0]) == 0;
    printf("undone: %s\n", changed && same ? "every byte is back" : "NOT as it was");
    free(before), free(after), free(undone);
    if (!changed || !same) exit(1);
}

static void mistakes(const incise_editor *editor, const char *model) {
    incise_error *error;
    char json[8192];
    incise_editor *none = incise_open("no/such/folder", NULL, 0, &error);
    expect("input", none, error);
    const char *misspelt = "{\"requests\": [], \"metod\": \"memit\"}";
    incise_edit *edit = incise_plan(editor, misspelt, NULL, &error);
    expect("input", edit, error);
    // Whatever is true of `cancelled` ends the work.
    incise_progress impatient = {.cancelled = at_once};
    document(json, sizeof json, model);
    edit = incise_plan(editor, json, &impatient, &error);
    expect("interrupted", edit, error);
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "say: %s MODEL, a copy of the folder demo\n", argv[0]);
        return 2;
    }
    incise_error *error;
    char json[8192];
    size_t told = 0;
    incise_editor *editor = incise_open(argv[1], "cpu", 0, &error);
    check(editor, error);
    document(json, sizeof json, argv[1]);
    incise_progress progress = {.context = &told, .at = count, .warn = warn};
    incise_edit *edit = incise_plan(editor, json, &progress, &error);
    check(edit, error);
    printf("incise %s planned, and told of it %s\n", incise_version(), told ? "often" : "NEVER");
    printf("facts: %.200s...\n", incise_edit_facts(edit));
    printf("report: %.200s...\n", incise_edit_report(edit));
    if (!strstr(incise_edit_facts(edit), "\"taken\":true") || !told) return 1;
    read_tensors(edit);
    mistakes(editor, argv[1]);
    apply_and_undo(edit, argv[1]);
    incise_edit_free(edit);
    incise_editor_free(editor);
    return 0;
}
