package org.palmtop.app;

import android.app.Activity;
import android.app.AlertDialog;
import android.content.ClipData;
import android.content.ClipboardManager;
import android.content.Context;
import android.content.DialogInterface;
import android.content.Intent;
import android.view.View;
import android.widget.AdapterView;
import java.io.IOException;
import java.util.ArrayList;
import java.util.List;
import org.palmtop.app.logic.Attachment;
import org.palmtop.app.logic.Entry;
import org.palmtop.app.logic.Example;
import org.palmtop.app.logic.Settings;

/** The chat screen's menus: where to go, which adapter, an example to try, and copying a message. */
final class ChatMenus implements View.OnClickListener {
    private final ChatActivity screen;
    private final PalmtopApp app;

    ChatMenus(ChatActivity screen, PalmtopApp app) {
        this.screen = screen;
        this.app = app;
        for (int id : new int[] {R.id.more, R.id.settings, R.id.adapter, R.id.example}) {
            screen.findViewById(id).setOnClickListener(this);
        }
    }

    @Override
    public void onClick(View view) {
        if (view.getId() == R.id.settings) {
            screen.startActivity(new Intent(screen, SettingsActivity.class));
        } else if (view.getId() == R.id.adapter) {
            chooseAdapter();
        } else if (view.getId() == R.id.example) {
            chooseExample();
        } else {
            new Choice(screen)
                    .add(R.string.menu_new, new Runnable() {
                        @Override
                        public void run() {
                            if (!app.chat().begin()) {
                                screen.tell(screen.getString(R.string.history_busy));
                            }
                        }
                    })
                    .add(R.string.history_title, go(HistoryActivity.class))
                    .add(R.string.menu_models, go(ModelsActivity.class))
                    .add(R.string.menu_benchmark, go(BenchmarkActivity.class))
                    .add(R.string.menu_about, go(AboutActivity.class))
                    .show(0);
        }
    }

    private Runnable go(final Class<? extends Activity> where) {
        return new Runnable() {
            @Override
            public void run() {
                screen.startActivity(new Intent(screen, where));
            }
        };
    }

    private void chooseAdapter() {
        final List<String> names = new ArrayList<String>();
        names.add(Settings.ADAPTER_BY_INPUT);
        names.add(Settings.ADAPTER_NONE);
        names.addAll(app.chat().state().adapters);
        List<String> words = new ArrayList<String>();
        for (String name : names) {
            words.add(Words.adapter(screen, name));
        }
        int chosen = Math.max(0, names.indexOf(app.chat().settings().adapter));
        new AlertDialog.Builder(screen)
                .setTitle(R.string.adapter_title)
                .setSingleChoiceItems(words.toArray(new String[0]), chosen, new DialogInterface.OnClickListener() {
                    @Override
                    public void onClick(DialogInterface dialog, int which) {
                        dialog.dismiss();
                        SettingsActivity.keep(screen, app, app.chat().settings().withAdapter(names.get(which)));
                    }
                })
                .show();
    }

    private void chooseExample() {
        final Intake intake = new Intake(app);
        List<Example> examples;
        try {
            examples = intake.examples();
        } catch (IOException error) {
            throw new IllegalStateException(error); // the build packs them
        }
        Choice choice = new Choice(screen);
        for (final Example example : examples) {
            choice.add(screen.getString(Words.mode(example.mode)) + ": " + example.question, new Runnable() {
                @Override
                public void run() {
                    ask(intake, example);
                }
            });
        }
        choice.show(R.string.example);
    }

    private void ask(final Intake intake, final Example example) {
        app.fileWorker().execute(new Runnable() {
            @Override
            public void run() {
                try {
                    for (String name : new String[] {example.image, example.audio}) {
                        Attachment attachment = name == null ? null : intake.asset(name);
                        if (attachment != null) {
                            app.chat().attach(attachment);
                        }
                    }
                    app.chat().send(example.question);
                } catch (final IOException error) {
                    screen.runOnUiThread(new Runnable() {
                        @Override
                        public void run() {
                            screen.tell(screen.getString(R.string.trouble_storage_full));
                        }
                    });
                }
            }
        });
    }

    AdapterView.OnItemLongClickListener copyOnLongPress() {
        return new AdapterView.OnItemLongClickListener() {
            @Override
            public boolean onItemLongClick(AdapterView<?> list, View row, int position, long id) {
                Entry entry = (Entry) list.getItemAtPosition(position);
                ClipboardManager clipboard = (ClipboardManager) screen.getSystemService(Context.CLIPBOARD_SERVICE);
                clipboard.setPrimaryClip(ClipData.newPlainText(null, entry.text));
                screen.tell(screen.getString(R.string.copied));
                return true;
            }
        };
    }
}
