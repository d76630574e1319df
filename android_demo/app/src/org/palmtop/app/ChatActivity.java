package org.palmtop.app;

import android.app.Activity;
import android.content.Intent;
import android.os.Bundle;
import android.os.Handler;
import android.os.Looper;
import android.os.SystemClock;
import android.view.View;
import android.view.WindowManager;
import android.widget.Button;
import android.widget.EditText;
import android.widget.ImageButton;
import android.widget.ListView;
import android.widget.ProgressBar;
import android.widget.TextView;
import android.widget.Toast;
import java.util.List;
import org.palmtop.app.logic.Chat;
import org.palmtop.app.logic.ChatState;
import org.palmtop.app.logic.Entry;
import org.palmtop.app.logic.ProcessMemory;
import org.palmtop.app.logic.Sizes;

/** The chat's screen: shows what {@link Chat} says, and passes on what is pressed. Holds nothing of its own. */
public final class ChatActivity extends Activity implements Chat.Watcher {
    private static final int BAR_UNITS = 1000;
    private static final long MEMORY_MILLIS = 1000;
    static final float DISABLED_ALPHA = 0.4f;

    private final Handler main = new Handler(Looper.getMainLooper());
    private PalmtopApp app;
    private Chat chat;
    private MessageList list;
    private ChatMenus menus;
    private AttachButton attach;
    private RecordButton record;
    private AttachedStrip strip;
    private boolean isShowPosted;
    private boolean wasAnswering;
    private long memoryReadAt = -MEMORY_MILLIS - 1;

    @Override
    protected void onCreate(Bundle saved) {
        super.onCreate(saved);
        setContentView(R.layout.chat);
        app = (PalmtopApp) getApplication();
        chat = app.chat();
        Thumbnails thumbnails = new Thumbnails(app.fileWorker());
        list = new MessageList(this, thumbnails, new View.OnClickListener() {
            @Override
            public void onClick(View view) {
                chat.retry();
            }
        });
        ListView messages = (ListView) findViewById(R.id.messages);
        messages.setAdapter(list);
        menus = new ChatMenus(this, app);
        messages.setOnItemLongClickListener(menus.copyOnLongPress());
        strip = new AttachedStrip(this, chat, thumbnails);
        attach = new AttachButton(this, app, saved);
        record = new RecordButton(this, app);
        if (saved == null) { // else it was taken already
            takeShared(getIntent());
        }
        findViewById(R.id.send).setOnClickListener(new View.OnClickListener() {
            @Override
            public void onClick(View view) {
                sendOrStop();
            }
        });
    }

    @Override
    protected void onNewIntent(Intent intent) {
        super.onNewIntent(intent);
        takeShared(intent);
    }

    private void takeShared(Intent intent) {
        if (!Shared.take(intent, app)) {
            tell(getString(R.string.share_unsupported));
        }
    }

    @Override
    protected void onStart() {
        super.onStart();
        chat.watch(this);
        record.show();
        app.screenShown();
        show();
    }

    @Override
    protected void onStop() {
        chat.unwatch(this);
        if (!isChangingConfigurations()) {
            app.recorder().stop(); // nobody is listened to who does not see it
        }
        record.hide();
        app.screenHidden();
        super.onStop();
    }

    @Override
    protected void onSaveInstanceState(Bundle out) {
        super.onSaveInstanceState(out);
        attach.save(out);
    }

    @Override
    protected void onActivityResult(int request, int result, Intent data) {
        attach.onResult(request, result, data);
    }

    @Override
    public void onRequestPermissionsResult(int request, String[] permissions, int[] granted) {
        record.onPermission(granted);
    }

    /** From any thread, with every piece of an answer: drawn at most once per turn of the main thread. */
    @Override
    public void onChange() {
        synchronized (this) {
            if (isShowPosted) {
                return;
            }
            isShowPosted = true;
        }
        main.post(new Runnable() {
            @Override
            public void run() {
                synchronized (ChatActivity.this) {
                    isShowPosted = false;
                }
                show();
            }
        });
    }

    private void sendOrStop() {
        EditText message = (EditText) findViewById(R.id.message);
        if (chat.state().isAnswering()) {
            chat.stop();
        } else if (chat.send(message.getText().toString())) {
            message.setText("");
        }
    }

    private void show() {
        ChatState state = chat.state();
        List<Entry> entries = chat.entries();
        boolean isReady = state.phase == ChatState.Phase.READY;
        list.show(entries, isReady);
        strip.show(state.attached);
        ((TextView) findViewById(R.id.title))
                .setText(state.model.isEmpty() ? getString(R.string.app_name) : state.model);
        boolean isReading = isReady && app.offers().isReading();
        setText(
                (TextView) findViewById(R.id.status),
                getString(isReading ? R.string.state_taking : Words.of(state)));
        showMemory(state);
        boolean isEmpty = entries.isEmpty() && state.trouble == null;
        findViewById(R.id.empty).setVisibility(isEmpty ? View.VISIBLE : View.GONE);
        findViewById(R.id.example).setVisibility(isReady ? View.VISIBLE : View.GONE);
        showTrouble(state);
        showProgress(state, isReading);
        showSend(state);
        Button adapter = (Button) findViewById(R.id.adapter);
        adapter.setText(Words.adapter(this, chat.settings().adapter));
        adapter.setVisibility(state.adapters.isEmpty() ? View.GONE : View.VISIBLE);
        findViewById(R.id.attach).setEnabled(isReady);
        findViewById(R.id.attach).setAlpha(isReady ? 1f : DISABLED_ALPHA);
        record.enable(isReady);
        keepScreenOn(state.isBusy());
        announceEnd(state, entries);
    }

    private void showTrouble(ChatState state) {
        TextView banner = (TextView) findViewById(R.id.trouble);
        boolean isNotSaved = chat.isNotSaved();
        banner.setVisibility(state.trouble != null || isNotSaved ? View.VISIBLE : View.GONE);
        if (state.trouble != null) {
            setText(banner, Words.of(this, state.trouble, state.detail));
        } else if (isNotSaved) {
            setText(banner, getString(R.string.not_saved));
        }
    }

    /** What the app holds while a model is open, of what the phone could give it. */
    private void showMemory(ChatState state) {
        TextView line = (TextView) findViewById(R.id.memory);
        boolean isOpen = chat.manifest() != null;
        line.setVisibility(isOpen ? View.VISIBLE : View.GONE);
        long now = SystemClock.elapsedRealtime();
        if (isOpen && now - memoryReadAt > MEMORY_MILLIS) {
            memoryReadAt = now;
            ProcessMemory memory = app.memory();
            line.setText(getString(
                    R.string.memory_line, Sizes.text(memory.usedBytes), Sizes.text(memory.availableBytes)));
        }
    }

    private void showProgress(ChatState state, boolean isReading) {
        ProgressBar bar = (ProgressBar) findViewById(R.id.progress);
        boolean isWaiting =
                isReading || state.phase == ChatState.Phase.OPENING || state.phase == ChatState.Phase.READING;
        bar.setVisibility(isWaiting ? View.VISIBLE : View.GONE);
        // All bytes checked, or nothing counted yet: loading takes its time and cannot say how much.
        bar.setIndeterminate(state.progress <= 0 || state.progress >= 1);
        bar.setProgress((int) (state.progress * BAR_UNITS));
    }

    private void showSend(ChatState state) {
        ImageButton send = (ImageButton) findViewById(R.id.send);
        boolean isAnswering = state.isAnswering();
        send.setImageResource(isAnswering ? R.drawable.ic_stop : R.drawable.ic_send);
        send.setContentDescription(getString(isAnswering ? R.string.do_stop : R.string.do_send));
        boolean isEnabled = state.canSend() || state.canStop();
        send.setEnabled(isEnabled);
        send.setAlpha(isEnabled ? 1f : DISABLED_ALPHA);
    }

    private void keepScreenOn(boolean isOn) {
        int flag = WindowManager.LayoutParams.FLAG_KEEP_SCREEN_ON;
        if (isOn) {
            getWindow().addFlags(flag);
        } else {
            getWindow().clearFlags(flag);
        }
    }

    /** TalkBack reads an answer when it is whole, not each of its words again. */
    private void announceEnd(ChatState state, List<Entry> entries) {
        boolean isAnswering = state.isAnswering();
        if (wasAnswering && !isAnswering && !entries.isEmpty()) {
            String text = entries.get(entries.size() - 1).text;
            findViewById(R.id.messages).announceForAccessibility(getString(R.string.model_said, text));
        }
        wasAnswering = isAnswering;
    }

    void tell(String words) {
        Toast.makeText(this, words, Toast.LENGTH_LONG).show();
    }

    /** Setting the same text again would make TalkBack read it again. */
    private static void setText(TextView view, String text) {
        if (!text.contentEquals(view.getText())) {
            view.setText(text);
        }
    }
}
