// Recipes: defaults, paths, overrides, variants. (Messages for bad ones: tests/cli/bad_recipe.sh.)
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "prune/prune.h"
#include "recipes/recipe.h"
#include "recipes/stage.h"

static const char source[] =
    "// a comment\n"
    "{\"model\": \"m\", \"data\": {\"train\": [\"a.txt\", \"/b.txt\"], \"eval\": \"c.txt\"},\n"
    " \"stages\": [{\"prune\": {\"ffn\": 0.5}}, {\"distill\": {\"tokens\": 1000}},\n"
    "            {\"quantize\": {\"type\": \"Q4_K\"}}, {\"quantize\": {}}]}";

// The recipe above as /folder/try.json would be, with overrides.
static struct recipe read_recipe(const char *const *set, size_t n) {
    struct option_list list = {(char **)set, n};
    struct error err = {""};
    struct recipe r;
    struct json *o = json_parse(source, strlen(source), "try.json", 1, &err);
    cr_assert(o, "%s", err.text);
    int status = recipe_from_json(&r, o, "/folder/try.json", "/folder", &list, &err);
    json_free(o);
    cr_assert_eq(status, 0, "%s", err.text);
    return r;
}

Test(recipe, names_paths_and_defaults) {
    struct recipe r = read_recipe(NULL, 0);
    cr_assert_str_eq(r.name, "try");
    cr_assert_eq(r.seed, 1);
    cr_assert_eq(r.data.eval_tokens, 50000);
    cr_assert_eq(r.n_stage, 4);
    char *model = recipe_path(&r, r.model), *text = recipe_path(&r, r.data.train.item[1]);
    cr_assert_str_eq(model, "/folder/m");
    cr_assert_str_eq(text, "/b.txt");
    // a K type comes later, so widths are multiples of its block
    cr_assert_eq(((const struct prune_options *)r.stage[0].options)->align, 256);
    free(model);
    free(text);
    recipe_release(&r);
}

Test(recipe, overrides_reach_their_keys) {
    const char *const set[] = {
        "prune.ffn=0.25", "stages[3].quantize.type=F16", "data.seq_len=64", "stages[2].quantize.type=Q8_0", "seed=7",
        "name=12",        "data.sample.documents=3"};
    struct recipe r = read_recipe(set, sizeof set / sizeof *set);
    const struct prune_options *prune = r.stage[0].options;
    cr_assert_eq(prune->ffn, 0.25);
    cr_assert_eq(prune->align, 32); // no K type is left
    cr_assert_str_eq(stage_quantize_type(&r.stage[3]), "F16");
    cr_assert_eq(r.data.seq_len, 64);
    cr_assert_eq(r.seed, 7);
    cr_assert_str_eq(r.name, "12");
    cr_assert_eq(r.sample.documents, 3);
    recipe_release(&r);
}

Test(recipe, paths_of_overrides_start_at_the_current_folder) {
    const char *const set[] = {"model=other", "distill.teacher=t", "data.eval=e.txt"};
    struct recipe r = read_recipe(set, 3);
    char *other = path_absolute("other"), *eval = path_absolute("e.txt");
    cr_assert_str_eq(r.model, other);
    cr_assert_eq(r.model[0], '/');
    cr_assert_str_eq(r.data.eval.item[0], eval);
    cr_assert_str_neq(r.stage[1].type->teacher(&r.stage[1], 0), "t");
    cr_assert_null(r.stage[1].type->teacher(&r.stage[1], 1));
    free(other);
    free(eval);
    recipe_release(&r);
}

Test(recipe, a_variant_is_the_recipe_with_its_overrides) {
    struct recipe r = read_recipe(NULL, 0), variant;
    struct error err = {""};
    struct json *set = json_object();
    json_set_number(set, "distill.alpha", 0.25);
    cr_assert_eq(recipe_variant(&variant, &r, "v", set, NULL, 3, &err), 0, "%s", err.text);
    struct json *options = options_json(variant.stage[1].type->table, variant.stage[1].options);
    cr_assert_eq(json_number(json_get(options, "alpha")), 0.25);
    cr_assert_eq(json_number(json_get(options, "tokens")), 1000);
    cr_assert_eq(variant.seed, 3);
    cr_assert_str_eq(variant.name, "try");
    json_free(options);
    json_free(set);
    recipe_release(&variant);
    recipe_release(&r);
}

Test(recipe, the_effective_recipe_reads_back_as_itself) {
    struct recipe r = read_recipe(NULL, 0), again;
    struct error err = {""};
    struct json *o = recipe_json(&r, 1);
    cr_assert_eq(recipe_from_json(&again, o, "recipe.json", "/elsewhere", NULL, &err), 0, "%s", err.text);
    struct json *o2 = recipe_json(&again, 1);
    char *a = json_text(o, 1), *b = json_text(o2, 1);
    cr_assert_str_eq(a, b);
    cr_assert(strstr(a, "\"/folder/a.txt\""), "%s", a);
    free(a);
    free(b);
    json_free(o);
    json_free(o2);
    recipe_release(&again);
    recipe_release(&r);
}
