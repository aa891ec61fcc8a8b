// students.c: see students.h.
//
// Students that begin with the same weights would learn the same for ever and have nothing to say to each other. So a fresh one is drawn with
// a seed of its own, and two that begin alike are refused.
#include "recipes/students.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "recipes/shape.h"

#define SEED_STEP 1000000 // between the seeds of fresh students: far from other runs' seeds

struct student { // one beside the stage's own
    char *shape, *model;
    int64_t seed; // -1: by its place
};
#define AT(member) offsetof(struct student, member)
static const struct option table[] = {
    {"shape", OPTION_STRING, AT(shape), NULL, 0, 0, NULL, "DIR", "fresh random weights of this folder's shape"},
    {"model", OPTION_STRING, AT(model), NULL, 0, 0, NULL, "MODEL", "the weights of this model"},
    {"seed", OPTION_INT, AT(seed), "-1", -1, 1e15, NULL, "N", "of fresh weights; -1: the recipe's and 1,000,000 for every student before it"},
    {.name = NULL}};

struct student_list {
    struct student item[STUDENTS_MOST - 1];
    int n;
};

static void list_release(struct student_list *l) {
    for (int i = 0; i < l->n; i++)
        options_release(table, &l->item[i]);
}

// Released by the caller, also on failure.
static int list_read(struct student_list *l, const struct distill_options *o, const char *where, struct error *err) {
    *l = (struct student_list){0};
    if (json_kind(o->students) != JSON_ARRAY || !json_count(o->students) || json_count(o->students) >= STUDENTS_MOST)
        return error_set(err, "%s.students: expected a list of 1 to %d students beside the stage's own, each {\"shape\": DIR} or {\"model\": MODEL}",
                         where, STUDENTS_MOST - 1);
    for (const struct json *v = json_first(o->students); v; v = json_next(v)) {
        struct student *s = &l->item[l->n];
        char *place = xasprintf("%s.students[%d]", where, l->n);
        options_init(table, s);
        l->n++;
        int status = options_read_json(table, s, v, place, err);
        if (status == 0 && !s->shape == !s->model)
            status = error_set(err, "%s: found %s, expected one of \"shape\" (fresh weights) and \"model\" (its weights)", place,
                               s->shape ? "both" : "neither");
        free(place);
        TRY(status);
    }
    return 0;
}

int students_validate(const struct recipe *r, const struct distill_options *o, const char *where, struct error *err) {
    struct student_list l;
    if (o->go_on == GO_ON_BEST && !o->students)
        return error_set(err, "%s: \"go_on\" chooses among several students; give \"students\"", where);
    if (o->go_on == GO_ON_BEST && r->data.eval.count == 0 && !r->data.sample)
        return error_set(err, "%s: \"go_on\": \"best\" needs held-out text: give data.eval", where);
    if (!o->students)
        return 0;
    const int status = list_read(&l, o, where, err);
    list_release(&l);
    return status;
}

int students_files(const struct distill_options *o, stage_file *add, void *context, struct error *err) {
    struct student_list l;
    if (!o->students)
        return 0;
    int status = list_read(&l, o, "distill", err);
    for (int i = 0; i < l.n && status == 0; i++) {
        const struct student *s = &l.item[i];
        status = add(context, s->model ? s->model : s->shape, !s->model, err);
    }
    list_release(&l);
    return status;
}

static int check_shapes(const struct forecast *f, const struct distill_options *o, const struct config *const *student, int n, struct error *err) {
    char first[SHAPE_TEXT], other[SHAPE_TEXT];
    char *place = stage_training_place(f->recipe, f->index);
    const int status = distill_mutual_check(o, student, n, place, err);
    free(place);
    TRY(status);
    shape_text(first, student[0]);
    for (int k = 0; k < n; k++) {
        const long most = (long)model_positions(student[k]);
        shape_text(other, student[k]);
        if (most && f->recipe->data.seq_len > most)
            return error_set(err, "%s: stages[%d].distill: data.seq_len is %ld, and student %d has learned positions for %ld", f->recipe->where,
                             f->index, (long)f->recipe->data.seq_len, k + 1, most);
        if (o->go_on == GO_ON_BEST && strcmp(first, other) != 0)
            return error_set(err, "%s: stages[%d].distill.go_on: the stages after this one must know a shape, and student %d has another than "
                             "student 1; expected \"first\", or students of one shape", f->recipe->where, f->index, k + 1);
    }
    return 0;
}

static void forecast_costs(struct forecast *f, const struct distill_options *o, const struct config *const *student, int n) {
    const int64_t seq_len = f->recipe->data.seq_len, steps = train_steps(&o->train, seq_len);
    const struct step_cost cost = step_cost_students(student, n, &o->train, seq_len);
    f->flops = cost.flops * (double)steps;
    f->bytes = cost.bytes * (double)steps;
    f->memory = cost.memory;
    for (int k = 0; k < n; k++) {
        f->disk += 4 * config_parameters(student[k]);
        f->scratch += snapshot_scratch(student[k], &o->train);
    }
    snprintf(f->what, sizeof f->what, "%d students learn from each other on %ld tokens in %ld steps", n,
             (long)(steps * o->train.batch * o->train.accumulate * seq_len), (long)steps);
}

int students_forecast(struct forecast *f, const struct distill_options *o, struct error *err) {
    struct student_list l;
    struct config config[STUDENTS_MOST] = {0};
    const struct config *student[STUDENTS_MOST] = {&f->out};
    int n = 1, status = list_read(&l, o, "distill", err);
    for (int i = 0; i < l.n && status == 0; i++, n++) {
        char *path = recipe_path(f->recipe, l.item[i].model ? l.item[i].model : l.item[i].shape);
        status = shape_read(&config[n], path, err);
        student[n] = &config[n];
        free(path);
    }
    if (status == 0)
        status = check_shapes(f, o, student, n, err);
    if (status == 0)
        forecast_costs(f, o, student, n);
    for (int k = 1; k < STUDENTS_MOST; k++)
        config_release(&config[k]);
    list_release(&l);
    return status;
}

struct class { // lifetime: one training
    const struct stage_run *stage;
    struct opened other[STUDENTS_MOST - 1];
    struct model *student[STUDENTS_MOST];
    int n;
};

static int open_student(struct class *c, const struct student *s, struct error *err) {
    struct opened *o = &c->other[c->n - 1];
    int status;
    if (s->shape) {
        status = stage_open_fresh(c->stage, s->shape, o, err);
        if (status == 0)
            model_initialise(o->model, (uint64_t)(s->seed >= 0 ? s->seed : c->stage->recipe->seed + SEED_STEP * c->n));
    } else {
        char *path = recipe_path(c->stage->recipe, s->model);
        status = opened_any(o, path, err);
        free(path);
    }
    if (status == 0 && !o->model->data)
        status = error_set(err, "%s: its weights are quantized; give an unquantized model", s->model);
    if (status < 0)
        return error_prefix(err, "student %d", c->n + 1);
    c->student[c->n++] = o->model;
    return 0;
}

static int begin_alike(const struct model *a, const struct model *b) {
    return a->n_element == b->n_element && memcmp(a->data, b->data, (size_t)a->n_element * sizeof *a->data) == 0;
}

static int open_students(struct class *c, const struct distill_options *o, struct model *own, struct error *err) {
    struct student_list l;
    c->student[c->n++] = own;
    int status = list_read(&l, o, "distill", err);
    for (int i = 0; i < l.n && status == 0; i++)
        status = open_student(c, &l.item[i], err);
    list_release(&l);
    for (int k = 1; k < c->n; k++)
        for (int i = 0; i < k && status == 0; i++)
            if (begin_alike(c->student[i], c->student[k]))
                status = error_set(err, "distill.students: students %d and %d begin with the same weights and would have nothing to tell each other; "
                                   "give another \"seed\", \"shape\" or \"model\"", i + 1, k + 1);
    return status;
}

// The first one's loss is the run's; the log has the others', too.
static int held_out_losses(void *context, double best, double *loss, char note[HELD_OUT_NOTE], struct error *err) {
    const struct class *c = context;
    double accuracy, other;
    size_t used = 0;
    (void)best;
    TRY(stage_measure(c->stage, c->student[0], 0, loss, &accuracy, err));
    for (int k = 1; k < c->n; k++) {
        TRY(stage_measure(c->stage, c->student[k], 0, &other, &accuracy, err));
        used += (size_t)snprintf(note + used, HELD_OUT_NOTE - used, ",\"held_out_%d\":%.9g", k + 1, other);
    }
    return 0;
}

static int choose(const struct class *c, const struct distill_options *o, int *chosen, struct error *err) {
    double least = 0, loss, accuracy;
    *chosen = 0;
    for (int k = 0; k < c->n && o->go_on == GO_ON_BEST; k++) {
        TRY(stage_measure(c->stage, c->student[k], 0, &loss, &accuracy, err));
        if (k == 0 || loss < least) {
            least = loss;
            *chosen = k;
        }
    }
    return 0;
}

static int save(struct stage_run *s, const struct class *c, int chosen, const char *name, struct error *err) {
    for (int k = 0; k < c->n; k++) {
        char *part = k == chosen ? xstrdup(".") : xasprintf("student-%d", k + 1);
        char *folder = k == chosen ? xstrdup(s->folder) : path_join(s->folder, part);
        const int status = stage_save(s, c->student[k], folder, DTYPE_F32, 0, err);
        free(folder);
        free(part);
        TRY(status);
    }
    stage_add_product(s, name, "."); // first: it is the stage's model
    for (int k = 0; k < c->n; k++) {
        char *part = xasprintf("student-%d", k + 1);
        if (k != chosen)
            stage_add_product(s, part, part);
        free(part);
    }
    json_set_number(s->facts, "goes_on", chosen + 1);
    return 0;
}

int students_run(struct stage_run *s, const struct distill_options *o, struct model *own, struct error *err) {
    struct class c = {.stage = s};
    struct trainer trainer;
    struct held_out held_out;
    struct train_result result;
    int chosen, status = open_students(&c, o, own, err);
    if (status == 0) {
        stage_trainer(s, &trainer, own, &o->train, "distill", s->folder, &held_out);
        trainer.held_out = trainer.held_out ? held_out_losses : NULL;
        trainer.held_out_context = &c;
        status = distill_run_mutual(&trainer, c.student, c.n, o, &result, err);
    }
    if (status == 0)
        status = choose(&c, o, &chosen, err);
    if (status == 0)
        status = save(s, &c, chosen, o->shape ? "distilled" : "recovered", err);
    if (status == 0)
        stage_add_training(s, &result, "run.jsonl");
    for (int i = 0; i < STUDENTS_MOST - 1; i++)
        opened_release(&c.other[i]);
    return status;
}
