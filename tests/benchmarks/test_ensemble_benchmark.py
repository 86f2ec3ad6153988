from benchmarks.ensemble import NUM_FOLDS, make_tables, measure


def test_both_steps_run_on_few_rows(tmp_path):
    make_tables(tmp_path, 40 * 35 * NUM_FOLDS, 3, seed=1)
    sent = measure("submission", tmp_path, 3)
    assert sent["submission_rows"] == 6 * sent["submission_images"] == 6 * 7000
    fitted = measure("weights", tmp_path, 3)
    assert fitted["weights_score"] < fitted["weights_best_member"]
    assert abs(sum(fitted["weights_of_any"]) - 1) < 0.01
