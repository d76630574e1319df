package org.palmtop.app;

import android.app.Activity;
import android.content.ActivityNotFoundException;
import android.content.Intent;
import android.net.Uri;
import android.os.Bundle;
import android.view.LayoutInflater;
import android.view.View;
import android.view.WindowManager;
import android.widget.Button;
import android.widget.LinearLayout;
import android.widget.ProgressBar;
import android.widget.TextView;
import android.widget.Toast;
import java.io.IOException;
import java.io.OutputStream;
import java.util.Locale;
import org.palmtop.app.logic.Benchmark;
import org.palmtop.app.logic.BenchmarkReport;
import org.palmtop.app.logic.Sizes;
import org.palmtop.app.logic.Trouble;

/** Runs the benchmark and shows, shares and saves what it found. */
public final class BenchmarkActivity extends Activity implements BenchmarkJob.Watcher, View.OnClickListener {
    private static final int SAVE = 1;
    private static final int BAR_UNITS = 1000;

    private PalmtopApp app;
    private BenchmarkReport shown;

    @Override
    protected void onCreate(Bundle saved) {
        super.onCreate(saved);
        setContentView(R.layout.benchmark);
        ButtonRow.arrange(findViewById(android.R.id.content));
        app = (PalmtopApp) getApplication();
        for (int id : new int[] {R.id.back, R.id.start, R.id.share, R.id.save}) {
            findViewById(id).setOnClickListener(this);
        }
    }

    @Override
    protected void onStart() {
        super.onStart();
        app.screenShown();
        app.benchmarkJob().watch(this);
        onBenchmark();
    }

    @Override
    protected void onStop() {
        app.benchmarkJob().watch(null);
        app.screenHidden();
        super.onStop();
    }

    @Override
    public void onClick(View view) {
        BenchmarkJob job = app.benchmarkJob();
        if (view.getId() == R.id.back) {
            finish();
        } else if (view.getId() == R.id.share) {
            share(job.report());
        } else if (view.getId() == R.id.save) {
            save();
        } else if (job.isRunning()) {
            job.cancel();
        } else if (!job.start()) {
            Toast.makeText(this, R.string.benchmark_not_ready, Toast.LENGTH_LONG).show();
        }
    }

    @Override
    public void onBenchmark() {
        BenchmarkJob job = app.benchmarkJob();
        boolean isRunning = job.isRunning();
        ((Button) findViewById(R.id.start)).setText(isRunning ? R.string.do_cancel : R.string.benchmark_start);
        ProgressBar bar = (ProgressBar) findViewById(R.id.progress);
        bar.setVisibility(isRunning ? View.VISIBLE : View.GONE);
        bar.setProgress((int) (job.share() * BAR_UNITS));
        BenchmarkReport report = isRunning ? null : job.report();
        for (int id : new int[] {R.id.share, R.id.save}) {
            findViewById(id).setVisibility(report == null ? View.GONE : View.VISIBLE);
        }
        String words = job.words();
        if (report != null && words.isEmpty()) {
            words = getString(
                    R.string.benchmark_memory,
                    Sizes.text(report.memory.peakBytes),
                    Sizes.text(report.memory.availableBytes));
        }
        ((TextView) findViewById(R.id.status)).setText(words);
        showRows(report);
        if (isRunning) {
            getWindow().addFlags(WindowManager.LayoutParams.FLAG_KEEP_SCREEN_ON);
        } else {
            getWindow().clearFlags(WindowManager.LayoutParams.FLAG_KEEP_SCREEN_ON);
        }
    }

    private void showRows(BenchmarkReport report) {
        if (report == shown) {
            return;
        }
        shown = report;
        LinearLayout rows = (LinearLayout) findViewById(R.id.rows);
        rows.removeAllViews();
        if (report == null) {
            return;
        }
        for (Benchmark.Row row : report.rows) {
            View view = LayoutInflater.from(this).inflate(R.layout.item_result, rows, false);
            ((TextView) view.findViewById(R.id.mode)).setText(Words.mode(row.mode));
            String first = String.format(Locale.getDefault(), "%.2f", row.ttftSeconds);
            ((TextView) view.findViewById(R.id.numbers))
                    .setText(getString(R.string.benchmark_row, first, BenchmarkReport.speed(row), row.promptTokens));
            rows.addView(view);
        }
    }

    private void share(BenchmarkReport report) {
        Intent send = new Intent(Intent.ACTION_SEND).setType("text/plain").putExtra(Intent.EXTRA_TEXT, report.text());
        startActivity(Intent.createChooser(send, getString(R.string.benchmark_share)));
    }

    private void save() {
        Intent create = new Intent(Intent.ACTION_CREATE_DOCUMENT).addCategory(Intent.CATEGORY_OPENABLE);
        create.setType("application/json").putExtra(Intent.EXTRA_TITLE, "palmtop-benchmark.json");
        try {
            startActivityForResult(create, SAVE);
        } catch (ActivityNotFoundException error) {
            Toast.makeText(this, R.string.no_files, Toast.LENGTH_LONG).show();
        }
    }

    @Override
    protected void onActivityResult(int request, int result, Intent data) {
        BenchmarkReport report = app.benchmarkJob().report();
        Uri place = data == null ? null : data.getData();
        if (result != RESULT_OK || place == null || report == null) {
            return;
        }
        try (OutputStream stream = getContentResolver().openOutputStream(place)) {
            stream.write(report.json().getBytes("UTF-8"));
        } catch (IOException error) {
            Toast.makeText(this, Words.of(Trouble.of(error)), Toast.LENGTH_LONG).show();
        }
    }
}
