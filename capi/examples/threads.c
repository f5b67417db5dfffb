// Several threads plan on one editor, and then read one edit: each gets what it would get alone.
//
//     cp -r demo MODEL && threads MODEL     nothing of MODEL is changed
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../incise.h"

#define THREADS 4

typedef struct {
    const incise_editor *editor;
    const char *json;
    incise_edit *edit;           // what this thread planned
    const incise_edit *shared;   // what all read
    const incise_tensor *after, *before;
    size_t tensors;
} work;

static void check(const void *result, incise_error *error) {
    if (!result) {
        fprintf(stderr, "%s: %s\n", incise_error_code(error), incise_error_message(error));
        exit(1);
    }
}

static void *plan(void *argument) {
    work *mine = argument;
    incise_error *error;
    mine->edit = incise_plan(mine->editor, mine->json, NULL, &error);
    check(mine->edit, error);
    return NULL;
}

static void *look(void *argument) {
    work *mine = argument;
    incise_error *error;
    size_t count;
    mine->after = incise_edit_tensors(mine->shared, &mine->tensors, &error);
    check(mine->after, error);
    mine->before = incise_edit_tensors_before(mine->shared, &count, &error);
    check(mine->before, error);
    bool taken = strstr(incise_edit_facts(mine->shared), "\"taken\":true");
    if (count != mine->tensors || !taken) exit(1);
    return NULL;
}

static void all(void *(*what)(void *), work *works) {
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, what, &works[i]) != 0) exit(1);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "say: %s MODEL, a copy of the folder demo\n", argv[0]);
        return 2;
    }
    incise_error *error;
    char json[8192];
    snprintf(json, sizeof json,
             "{\"requests\": {\"prompt\": \"{} played the\", \"subject\": \"Louis Armstrong\","
             "                \"target_new\": \"violin\"},"
             " \"method\": \"r-rome\", \"stats\": \"%s/stats\","
             " \"hparams\": \"%s/hparams.json\", \"contexts\": \"%s/contexts.json\"}",
             argv[1], argv[1], argv[1]);
    incise_editor *editor = incise_open(argv[1], NULL, 2, &error);
    check(editor, error);
    work works[THREADS] = {0};
    for (int i = 0; i < THREADS; i++)
        works[i] = (work){.editor = editor, .json = json};
    all(plan, works);
    incise_editor_free(editor);  // edits keep what they need of it
    size_t length, first_length;
    const uint8_t *first = incise_edit_patch(works[0].edit, &first_length, &error);
    check(first, error);
    for (int i = 1; i < THREADS; i++) {
        const uint8_t *patch = incise_edit_patch(works[i].edit, &length, &error);
        check(patch, error);
        if (length != first_length || memcmp(patch, first, length) != 0) return 1;
    }
    for (int i = 0; i < THREADS; i++)
        works[i].shared = works[0].edit;
    all(look, works);
    for (int i = 0; i < THREADS; i++)
        if (works[i].after != works[0].after || works[i].before != works[0].before) return 1;
    printf("%d threads planned one patch of %zu bytes, and read %zu tensor\n", THREADS, length,
           works[0].tensors);
    for (int i = 0; i < THREADS; i++)
        incise_edit_free(works[i].edit);
    return 0;
}
