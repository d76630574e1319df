package org.palmtop.app;

import android.app.Activity;
import android.app.AlertDialog;
import android.content.ActivityNotFoundException;
import android.content.DialogInterface;
import android.content.Intent;
import android.os.Bundle;
import android.view.View;
import android.view.WindowManager;
import android.widget.ListView;
import android.widget.ProgressBar;
import android.widget.TextView;
import android.widget.Toast;
import java.io.IOException;
import java.util.ArrayList;
import java.util.List;
import org.palmtop.app.logic.ModelShelf;
import org.palmtop.app.logic.Sizes;
import org.palmtop.core.bundle.Manifest;
import org.palmtop.core.engine.MemoryPlan;

/** The models on this phone: use, look into, delete, and import another one. */
public final class ModelsActivity extends Activity implements ModelList.Listener, ImportJob.Watcher, View.OnClickListener {
    private static final int PICK = 1;
    private static final int BAR_UNITS = 1000;
    private static final int PREFILL_CHUNK = 128;

    private PalmtopApp app;
    private ModelList list;
    private boolean wasImporting;

    @Override
    protected void onCreate(Bundle saved) {
        super.onCreate(saved);
        setContentView(R.layout.models);
        ButtonRow.arrange(findViewById(android.R.id.content));
        app = (PalmtopApp) getApplication();
        list = new ModelList(this, this);
        ((ListView) findViewById(R.id.models)).setAdapter(list);
        for (int id : new int[] {R.id.back, R.id.import_model, R.id.cancel}) {
            findViewById(id).setOnClickListener(this);
        }
    }

    @Override
    protected void onStart() {
        super.onStart();
        app.screenShown();
        app.importJob().watch(this);
        showModels();
        onImport();
    }

    @Override
    protected void onStop() {
        app.importJob().watch(null);
        app.screenHidden();
        super.onStop();
    }

    @Override
    public void onClick(View view) {
        if (view.getId() == R.id.back) {
            finish();
        } else if (view.getId() == R.id.cancel) {
            app.importJob().cancel();
        } else {
            try {
                startActivityForResult(new Intent(Intent.ACTION_OPEN_DOCUMENT_TREE), PICK);
            } catch (ActivityNotFoundException error) {
                tell(getString(R.string.no_files));
            }
        }
    }

    @Override
    protected void onActivityResult(int request, int result, Intent data) {
        if (result == RESULT_OK && data != null && data.getData() != null) {
            app.importJob().start(data.getData());
        }
    }

    @Override
    public void onImport() {
        ImportJob job = app.importJob();
        boolean isRunning = job.isRunning();
        String words = job.words();
        ((TextView) findViewById(R.id.status)).setText(words.isEmpty() ? getString(R.string.models_help) : words);
        ProgressBar bar = (ProgressBar) findViewById(R.id.progress);
        bar.setVisibility(isRunning ? View.VISIBLE : View.GONE);
        bar.setProgress((int) (job.share() * BAR_UNITS));
        findViewById(R.id.cancel).setVisibility(isRunning ? View.VISIBLE : View.GONE);
        findViewById(R.id.import_model).setVisibility(isRunning ? View.GONE : View.VISIBLE);
        if (isRunning) {
            getWindow().addFlags(WindowManager.LayoutParams.FLAG_KEEP_SCREEN_ON);
        } else {
            getWindow().clearFlags(WindowManager.LayoutParams.FLAG_KEEP_SCREEN_ON);
        }
        if (wasImporting && !isRunning) {
            showModels();
        }
        wasImporting = isRunning;
    }

    private void showModels() {
        app.fileWorker().execute(new Runnable() {
            @Override
            public void run() {
                final List<ModelShelf.Model> models = app.shelf().models();
                runOnUiThread(new Runnable() {
                    @Override
                    public void run() {
                        list.show(models, app.chat().modelFolder());
                    }
                });
            }
        });
    }

    @Override
    public void onUse(ModelShelf.Model model) {
        try {
            app.shelf().choose(model.folder);
        } catch (IOException error) {
            tell(getString(R.string.trouble_storage_full)); // used now, forgotten at the next start
        }
        app.chat().open(model.folder, model.name);
        finish();
    }

    @Override
    public void onDetails(ModelShelf.Model model) {
        Manifest manifest = model.bundle.manifest();
        List<String> adapters = new ArrayList<String>();
        for (Manifest.Adapter adapter : manifest.adapters) {
            adapters.add(adapter.name);
        }
        int context = manifest.decoder.contextLength;
        String memory = Sizes.text(new MemoryPlan(manifest, context, null, PREFILL_CHUNK).total());
        String facts = getString(R.string.models_facts, manifest.model, manifest.architecture, manifest.palmtop,
                context, adapters.isEmpty() ? getString(R.string.none) : Words.join(adapters),
                Sizes.text(model.sizeBytes), memory, model.folder.getPath(),
                Sizes.text(app.memory().availableBytes));
        String modes = getString(R.string.models_modes, Words.modes(this, manifest.modes()));
        new AlertDialog.Builder(this)
                .setTitle(model.name)
                .setMessage(modes + "\n" + facts)
                .setPositiveButton(android.R.string.ok, null)
                .show();
    }

    @Override
    public void onDelete(final ModelShelf.Model model) {
        new AlertDialog.Builder(this)
                .setMessage(getString(R.string.models_delete_ask, model.name, Sizes.text(model.sizeBytes)))
                .setNegativeButton(R.string.do_cancel, null)
                .setPositiveButton(R.string.do_delete, new DialogInterface.OnClickListener() {
                    @Override
                    public void onClick(DialogInterface dialog, int which) {
                        delete(model);
                    }
                })
                .show();
    }

    private void delete(final ModelShelf.Model model) {
        if (model.folder.equals(app.chat().modelFolder())) {
            app.chat().closeModel();
        }
        app.fileWorker().execute(new Runnable() {
            @Override
            public void run() {
                final boolean isGone = app.shelf().delete(model.folder);
                runOnUiThread(new Runnable() {
                    @Override
                    public void run() {
                        if (!isGone) {
                            tell(getString(R.string.models_delete_failed));
                        }
                        showModels();
                    }
                });
            }
        });
    }

    private void tell(String words) {
        Toast.makeText(this, words, Toast.LENGTH_LONG).show();
    }
}
